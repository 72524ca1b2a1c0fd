//! What a registry says to somebody who only asks whether it is one.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, header};
use serde::{Deserialize, Serialize};
use waylay_certs::RegistryName;

use super::Preheat;
use crate::{
    dial::{self, OrigDst},
    upstream::{Connected, Head, Target, connect},
};

/// How long an attempt to connect may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What was seen, step by step; what is `None` was not reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Which registry.
    pub registry: String,
    /// Whether connections to it are intercepted.
    pub listed: bool,
    /// Whether it was asked over plain HTTP.
    pub plain: bool,
    /// The address that its name has.
    pub address: Option<String>,
    /// How long the connection took, with its handshake, in milliseconds.
    pub connect_ms: Option<u64>,
    /// The status of its answer to `/v2/`.
    pub status: Option<u16>,
    /// How it wants to be logged in to.
    pub challenge: Option<String>,
    /// What went wrong, and what to do about it.
    pub problem: Option<String>,
}

impl Probed {
    /// Whether it answered as a registry does.
    pub fn is_registry(&self) -> bool {
        self.problem.is_none() && matches!(self.status, Some(200 | 401))
    }
}

impl Preheat {
    /// Connects to a registry as a pull would, and asks for `/v2/`.
    pub async fn probe(&self, name: RegistryName, plain: bool) -> Probed {
        let mut probed = Probed { registry: name.to_string(), plain, ..Probed::default() };
        if let Err(problem) = self.ask_base(&name, plain, &mut probed).await {
            probed.problem = Some(problem);
        }
        probed
    }

    async fn ask_base(&self, name: &RegistryName, plain: bool, probed: &mut Probed) -> Result<(), String> {
        let RegistryName { host, port } = name;
        let no_address = || format!("{host} has no address: check the name, and this node's DNS or /etc/hosts");
        let dst = (self.world.lookup)(host, *port).await.ok_or_else(no_address)?;
        probed.address = Some(dst.to_string());
        let (began, roots) = (Instant::now(), (!plain).then(|| (self.world.roots)(name)));
        match &roots {
            None => drop(dial::tcp(dst, DEADLINE).await.map_err(|error| format!("cannot connect: {error}"))?),
            Some(roots) => match connect(OrigDst(dst), host, roots.clone(), DEADLINE).await {
                Connected::Verified(_) => {}
                Connected::Unreachable(error) => return Err(format!("cannot connect: {error}")),
                Connected::Unverified(error) => {
                    return Err(format!(
                        "its certificate is not trusted on this node ({error}); pulls from it are passed through"
                    ));
                }
                Connected::WantsClientCert => {
                    return Err("it wants a client certificate; pulls from it are passed through".to_owned());
                }
                Connected::NotTls => {
                    return Err(
                        "it does not speak TLS; `waylay registry add --plain` lists one that speaks HTTP".to_owned()
                    );
                }
            },
        }
        probed.connect_ms = u64::try_from(began.elapsed().as_millis()).ok();
        let target = Target { dst: OrigDst(dst), host: host.as_str().into(), port: *port, roots };
        let head = Head { method: Method::GET, uri: http::Uri::from_static("/v2/"), headers: HeaderMap::new() };
        let asked = self.upstream.ask(&self.upstream.origin(target), &head).await;
        let answer = asked.map_err(|fault| format!("it did not answer: {fault}"))?;
        probed.status = Some(answer.status().as_u16());
        let challenge = answer.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        probed.challenge = challenge.map(str::to_owned);
        match answer.status().as_u16() {
            200 | 401 => Ok(()),
            status => Err(format!("a registry answers 200 or 401 here, and this one answered {status}")),
        }
    }
}
