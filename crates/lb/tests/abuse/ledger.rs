//! The access log, as the test reads it.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// What is told of one connection.
#[derive(Debug, Clone, Default)]
struct Line {
    client: String,
    end: String,
}

/// Every line since the first that was asked for; a test's few thousand.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lines: Mutex<Vec<Line>>,
}

impl Ledger {
    /// The one of this process, from now on.
    pub(crate) fn open() -> &'static Self {
        static LEDGER: OnceLock<&'static Ledger> = OnceLock::new();
        LEDGER.get_or_init(|| {
            let ledger: &'static Self = Box::leak(Box::default());
            tracing::subscriber::set_global_default(Clerk(ledger)).unwrap();
            ledger
        })
    }

    /// Why the connection of this client has ended, if it has.
    pub(crate) fn end_of(&self, client: SocketAddr) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lines.iter().rfind(|line| line.client == client.to_string());
        found.map(|line| line.end.clone())
    }
}

/// Writes down what is told.
struct Clerk(&'static Ledger);

impl Subscriber for Clerk {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "access"
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "client" {
            self.client = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "end" {
            self.end = value.to_owned();
        }
    }
}
