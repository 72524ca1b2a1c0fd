{{/* What selects the pods of a release; it can never change. */}}
{{- define "waylay.selector" -}}
app.kubernetes.io/name: waylay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What every object carries. */}}
{{- define "waylay.labels" -}}
{{ include "waylay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* An image by tag or by digest. */}}
{{- define "waylay.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.image.repository }}{{ if hasPrefix "sha256:" $tag }}@{{ else }}:{{ end }}{{ $tag }}
{{- end }}

{{/* The names of a release's objects begin so. */}}
{{- define "waylay.name" -}}
{{ if eq .Release.Name "waylay" }}waylay{{ else }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}-waylay{{ end }}
{{- end }}
