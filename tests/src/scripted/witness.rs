//! Access lines as a log would show them, kept for the tests of this process.

use std::{
    fmt,
    sync::{LazyLock, Once},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::sync::watch;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{EnvFilter, Layer, filter, fmt::TestWriter, layer::Context, prelude::*};

use crate::fleet::AccessLine;

/// How long a test waits for something that must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

static LINES: LazyLock<watch::Sender<Vec<Map<String, Value>>>> = LazyLock::new(|| watch::Sender::new(Vec::new()));

/// From now on access lines are kept. Other lines go to the test's output, filtered by `RUST_LOG`.
pub(super) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let access = Keep.with_filter(filter::filter_fn(|line| line.target() == "access"));
        let output =
            tracing_subscriber::fmt::layer().with_writer(TestWriter::new()).with_filter(EnvFilter::from_default_env());
        // A test that has set up logging of its own keeps it, and has no access lines.
        let _ = tracing_subscriber::registry().with(access).with(output).try_init();
    });
}

/// The lines of this program so far.
pub(super) fn of(program: &str) -> Vec<AccessLine> {
    let lines = LINES.borrow();
    let own = lines.iter().filter(|line| is_of(line, program));
    own.map(|line| serde_json::from_value(Value::Object(line.clone())).expect("an access line has its fields"))
        .collect()
}

/// The lines of this program once there are `count`, or those there are when patience ends.
pub(super) async fn until(program: &str, count: usize) -> Vec<AccessLine> {
    let mut lines = LINES.subscribe();
    // The sender is static, so there is always more to wait for.
    let _ = tokio::time::timeout(
        PATIENCE,
        lines.wait_for(|lines| lines.iter().filter(|line| is_of(line, program)).count() >= count),
    )
    .await;
    of(program)
}

fn is_of(line: &Map<String, Value>, program: &str) -> bool {
    line.get("program").and_then(Value::as_str) == Some(program)
}

struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        LINES.send_modify(|lines| lines.push(line.0));
    }
}

#[derive(Default)]
struct Line(Map<String, Value>);

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}
