//! The calls of CRI that pulls need (`k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`), written by hand: crictl is not
//! packaged, and the whole API would be a thousand messages for six.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::{Login, PULL_LIMIT};

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct AuthConfig {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    password: String,
}

#[derive(Clone, PartialEq, Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListImagesRequest {}

#[derive(Clone, PartialEq, Message)]
struct ListImagesResponse {}

#[derive(Clone, PartialEq, Message)]
struct RemoveImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct RemoveImageResponse {}

/// Succeeds when the image service at `socket` is ready.
pub(super) async fn answers(socket: &Path) -> Result<()> {
    let _: ListImagesResponse =
        call(socket, "/runtime.v1.ImageService/ListImages", ListImagesRequest {}, Duration::from_secs(2)).await?;
    Ok(())
}

/// `PullImage`, once: what the kubelet calls, and calls again by its own back-off when it fails.
pub(crate) async fn pull(socket: &Path, reference: &str, login: Option<&Login>) -> Result<()> {
    let auth = login.map(|login| AuthConfig { username: login.user.clone(), password: login.password.clone() });
    let request = PullImageRequest { image: Some(ImageSpec { image: reference.to_owned() }), auth };
    let pulled: PullImageResponse = call(socket, "/runtime.v1.ImageService/PullImage", request, PULL_LIMIT).await?;
    ensure!(pulled.image_ref.starts_with("sha256:"), "containerd calls the image {:?}", pulled.image_ref);
    Ok(())
}

/// `RemoveImage`, with all names that containerd gave it.
pub(super) async fn remove(socket: &Path, reference: &str) -> Result<()> {
    let request = RemoveImageRequest { image: Some(ImageSpec { image: reference.to_owned() }) };
    let _: RemoveImageResponse =
        call(socket, "/runtime.v1.ImageService/RemoveImage", request, Duration::from_secs(60)).await?;
    Ok(())
}

async fn call<Q, A>(socket: &Path, method: &'static str, request: Q, limit: Duration) -> Result<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let channel: Channel = Endpoint::from_shared(format!("unix://{}", socket.display()))?
        .connect_timeout(limit)
        .timeout(limit)
        .connect()
        .await?;
    let mut client = Grpc::new(channel);
    client.ready().await.context("containerd's socket")?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = client.unary(tonic::Request::new(request), PathAndQuery::from_static(method), codec).await;
    Ok(answer.map_err(|status| anyhow::anyhow!("{method}: {:?}: {}", status.code(), status.message()))?.into_inner())
}
