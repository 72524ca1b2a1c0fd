//! The part of Kubernetes' API that the manifest uses. An unknown field is refused; those that only a cluster obeys are named and
//! not read.

use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only a cluster obeys the others")]
pub(super) struct DaemonSet {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    metadata: IgnoredAny,
    spec: DaemonSetSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only a cluster obeys the others")]
struct DaemonSetSpec {
    selector: IgnoredAny,
    update_strategy: IgnoredAny,
    template: Template,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only a cluster obeys the others")]
struct Template {
    metadata: IgnoredAny,
    spec: PodSpec,
}

impl DaemonSet {
    pub(super) fn pod(&self) -> &PodSpec {
        &self.spec.template.spec
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only a cluster obeys the others")]
pub(super) struct PodSpec {
    service_account_name: IgnoredAny,
    automount_service_account_token: IgnoredAny,
    pub(super) host_network: bool,
    #[serde(rename = "hostPID")]
    pub(super) host_pid: bool,
    dns_policy: IgnoredAny,
    enable_service_links: IgnoredAny,
    priority_class_name: IgnoredAny,
    pub(super) termination_grace_period_seconds: u32,
    node_selector: IgnoredAny,
    tolerations: IgnoredAny,
    pub(super) containers: Vec<Container>,
    pub(super) volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only a cluster obeys the others")]
pub(super) struct Container {
    name: IgnoredAny,
    pub(super) image: String,
    image_pull_policy: IgnoredAny,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<Variable>,
    pub(super) security_context: SecurityContext,
    pub(super) ports: Vec<Port>,
    pub(super) startup_probe: Probe,
    pub(super) readiness_probe: Probe,
    pub(super) liveness_probe: Probe,
    resources: IgnoredAny,
    pub(super) volume_mounts: Vec<VolumeMount>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) value_from: Option<ValueFrom>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ValueFrom {
    pub(super) field_ref: FieldRef,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FieldRef {
    pub(super) field_path: Field,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(super) enum Field {
    #[serde(rename = "status.hostIP")]
    HostIp,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SecurityContext {
    pub(super) run_as_user: u32,
    pub(super) run_as_group: u32,
    pub(super) privileged: bool,
    pub(super) allow_privilege_escalation: bool,
    pub(super) read_only_root_filesystem: bool,
    pub(super) capabilities: Capabilities,
    pub(super) seccomp_profile: Profile,
    pub(super) app_armor_profile: Profile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capabilities {
    pub(super) drop: Vec<String>,
    pub(super) add: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only a cluster obeys the others")]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) container_port: u16,
    host_port: IgnoredAny,
    protocol: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "the scenario has a deadline of its own")]
pub(super) struct Probe {
    pub(super) http_get: HttpGet,
    period_seconds: IgnoredAny,
    timeout_seconds: Option<IgnoredAny>,
    failure_threshold: Option<IgnoredAny>,
    termination_grace_period_seconds: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpGet {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) scheme: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct VolumeMount {
    pub(super) name: String,
    pub(super) mount_path: String,
    #[serde(default)]
    pub(super) read_only: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) source: Source,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
#[expect(dead_code, reason = "only a cluster obeys the others")]
pub(super) enum Source {
    HostPath {
        path: String,
        #[serde(rename = "type")]
        kind: String,
    },
    EmptyDir {
        medium: IgnoredAny,
        size_limit: String,
    },
    ConfigMap {
        name: IgnoredAny,
    },
    Secret {
        secret_name: IgnoredAny,
        default_mode: u32,
    },
}
