//! `waylay cert`: the certificates that runtimes on this node are shown.

use std::time::{Duration, SystemTime};

use clap::Subcommand;
use comfy_table::{Table, presets::NOTHING};
use http::Method;
use waylay_certs::RegistryName;

use super::Ask;
use crate::admin::{client, status::Certificate};

/// What is left to do after a withdrawal.
const WITHDRAWN: &str = "
The old keys are deleted. Programs that were started with SSL_CERT_DIR still trust the old certificates, and are passed
through: `waylay doctor` names them, and `systemctl restart` of each ends that.";

/// Look at and renew the certificates that stand for registries on this node.
#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// List them: for which host, until when, and where runtimes find them.
    Ls(Ask),
    /// Make new ones and put them beside the old ones; a process that knows only the old one is still shown that.
    Rotate {
        /// Only this host's.
        #[arg(value_name = "HOST")]
        host: Option<RegistryName>,
        /// Somebody else may know the old keys: delete them, and take their certificates back. What reads certs.d goes by the
        /// new ones at once; a program that was started with SSL_CERT_DIR is passed through, and trusts the old ones, until
        /// it is started again.
        #[arg(long)]
        withdraw: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

impl Cert {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (ask, method, host) = match self {
            Self::Ls(ask) => (ask, Method::GET, None),
            Self::Rotate { host, withdraw, ask } => (ask, if withdraw { Method::DELETE } else { Method::POST }, host),
        };
        let withdrawn = method == Method::DELETE;
        let target = host.map_or_else(|| "/certificates".to_owned(), |name| format!("/certificates/{}", name.host));
        let body = super::ask(client::fetch(&ask.socket, method, &target))?;
        if ask.json {
            println!("{}", String::from_utf8_lossy(&body));
        } else {
            let certificates: Vec<Certificate> = serde_json::from_slice(&body)?;
            print!("{}", shown(&certificates));
            if withdrawn {
                println!("{WITHDRAWN}");
            }
        }
        Ok(())
    }
}

fn shown(certificates: &[Certificate]) -> String {
    if certificates.is_empty() {
        return "no registry that speaks TLS is listed, so there is no certificate\n".to_owned();
    }
    let day = |seconds| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        humantime::format_rfc3339_seconds(at).to_string().chars().take(10).collect::<String>()
    };
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["host", "sha256", "from", "until", "stands in"]);
    for one in certificates {
        let files = if one.files.is_empty() { "NOWHERE".to_owned() } else { one.files.join("\n") };
        let short: String = one.fingerprint.chars().take(16).collect();
        table.add_row([one.host.clone(), short, day(one.not_before), day(one.not_after), files]);
    }
    super::without_trailing_blanks(&table.to_string()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_stands_nowhere_is_seen() {
        let one = |files: &[&str]| Certificate {
            host: "r.test".to_owned(),
            fingerprint: "0123456789abcdef".repeat(4),
            not_before: 1_700_000_000,
            not_after: 1_731_000_000,
            files: files.iter().map(|file| (*file).to_owned()).collect(),
        };
        let text = shown(&[one(&["/etc/docker/certs.d/r.test/waylay.crt", "/var/lib/waylay/trust/a.0"]), one(&[])]);
        super::super::golden::same("cert/shown.txt", &text);
    }
}
