//! `waylay off` and `waylay on`: the operator's switch, at once and without a restart.

use std::time::Duration;

use http::Method;

use super::Ask;
use crate::admin::{bypass::moment, client, status::Switched};

/// For how long.
#[derive(Debug, clap::Args)]
pub(super) struct Off {
    /// Come back by itself after this time, such as 30m or 2h. Without it: not before `waylay on`.
    #[arg(long = "for", value_name = "TIME", value_parser = some_time)]
    time: Option<Duration>,
    #[command(flatten)]
    ask: Ask,
}

/// A time that is not over at once.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time < Duration::from_secs(1) => Err("a second is the least".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

impl Off {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let order = match self.time {
            Some(time) => format!("/off/{}", time.as_secs()),
            None => "/off".to_owned(),
        };
        order_switch(&self.ask, &order)
    }
}

/// Switches it on.
pub(super) fn on(ask: &Ask) -> anyhow::Result<()> {
    order_switch(ask, "/on")
}

fn order_switch(ask: &Ask, order: &str) -> anyhow::Result<()> {
    let body = super::ask(client::fetch(&ask.socket, Method::POST, order))?;
    let switched: Switched = serde_json::from_slice(&body)?;
    match ask.json {
        true => println!("{}", String::from_utf8_lossy(&body)),
        false => println!("{}", shown(&switched)),
    }
    Ok(())
}

fn shown(switched: &Switched) -> String {
    const OFF: &str = "off: new connections go directly to their registry, also after a restart, until";
    match switched {
        Switched { off: true, until: Some(until) } => format!("{OFF} {} or `waylay on`", moment(*until)),
        Switched { off: true, until: None } => format!("{OFF} `waylay on`"),
        Switched { off: false, .. } => "on: new connections of runtimes that trust waylay are intercepted".to_owned(),
    }
}
