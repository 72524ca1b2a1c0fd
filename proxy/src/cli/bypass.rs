//! `waylay bypass`: destinations whose connections are left alone, without a restart and, if wanted, for a time.

use std::time::Duration;

use clap::Subcommand;
use comfy_table::{Table, presets::NOTHING};
use http::Method;

use super::{Ask, switch::some_time};
use crate::admin::{
    bypass::{Destination, moment},
    client,
    status::Bypassed,
};

/// Leave single destinations alone; `waylay off` leaves all alone.
#[derive(Debug, Subcommand)]
pub(super) enum Bypass {
    /// List what is left alone, and until when.
    Ls(Ask),
    /// Send new connections to a destination directly, at once; a restart does not end it, connections that are open go on.
    Add {
        /// An address, which the kernel then does not catch, or a registry, whose connections are then passed through
        /// untouched wherever it is. Without a port it is 443.
        #[arg(value_name = "ADDRESS[:PORT]|HOST[:PORT]")]
        destination: Destination,
        /// Intercept it again by itself after this time, such as 30m or 2h. Without it: not before `waylay bypass rm`.
        #[arg(long = "for", value_name = "TIME", value_parser = some_time)]
        time: Option<Duration>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Intercept it again.
    Rm {
        /// What `waylay bypass ls` shows.
        #[arg(value_name = "ADDRESS[:PORT]|HOST[:PORT]")]
        destination: Destination,
        #[command(flatten)]
        ask: Ask,
    },
}

impl Bypass {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (ask, method, target) = match &self {
            Self::Ls(ask) => (ask, Method::GET, "/bypass".to_owned()),
            Self::Add { destination, time: None, ask } => (ask, Method::POST, format!("/bypass/{destination}")),
            Self::Add { destination, time: Some(time), ask } => {
                (ask, Method::POST, format!("/bypass/{destination}/{}", time.as_secs()))
            }
            Self::Rm { destination, ask } => (ask, Method::DELETE, format!("/bypass/{destination}")),
        };
        let body = super::ask(client::fetch(&ask.socket, method, &target))?;
        if ask.json {
            println!("{}", String::from_utf8_lossy(&body));
            return Ok(());
        }
        let text = match &self {
            Self::Ls(_) => list(&serde_json::from_slice::<Vec<Bypassed>>(&body)?),
            Self::Add { .. } => added(&serde_json::from_slice(&body)?),
            Self::Rm { destination, .. } => format!("{destination}: new connections are intercepted again\n"),
        };
        print!("{text}");
        Ok(())
    }
}

fn list(bypassed: &[Bypassed]) -> String {
    if bypassed.is_empty() {
        return "nothing is bypassed\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["destination", "by", "until"]);
    for Bypassed { destination, origin, until } in bypassed {
        let end = match (until, origin.as_str()) {
            (Some(until), _) => moment(*until),
            (None, "configuration") => "it is taken out of intercept.bypass".to_owned(),
            (None, _) => format!("`waylay bypass rm {destination}`"),
        };
        table.add_row([destination.as_str(), origin, &end]);
    }
    super::without_trailing_blanks(&table.to_string()) + "\n"
}

fn added(Bypassed { destination, until, .. }: &Bypassed) -> String {
    let until = until.map_or_else(String::new, |until| format!("{} or ", moment(until)));
    format!(
        "{destination}: new connections go directly, also after a restart, until {until}`waylay bypass rm {destination}`\n"
    )
}
