//! Log lines on standard error: text for people, or one JSON object a line.
//!
//! Who reads them may stop to: a full pipe would hold whoever writes for as long as that lasts, the loop that renews leases too. So
//! lines, and whatever else vipd says while it runs, go through a [`Queue`] that never holds anybody.

mod journal;
mod level;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, reload};

use crate::cli::LogFormat;
use journal::Prioritised;
use queue::Queue;

pub(crate) use level::{filter, level, set_level};

/// How long the end of the process waits for a reader of its last lines. Nothing is held any more by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a panic does, which should let go as soon as it can: in this time a reader that reads has read.
const PANIC_PATIENCE: Duration = Duration::from_millis(100);

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Begins to log.
///
/// # Errors
/// A filter that can't be parsed, or no thread and no socket for the queue.
pub(crate) fn begin(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(level)?;
    let opened = Queue::open().context("failed to start the thread that writes the log")?;
    let queue = QUEUE.get_or_init(|| opened);
    let (filter, changeable) = reload::Layer::new(filter);
    let begun = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer()
        .with_writer(move || queue)
        .with_ansi(io::stderr().is_terminal())
        // Of a line that can't be written nothing can be said either: the attempt would end the process, and the address with it.
        .log_internal_errors(false);
    let journal = journal::reads_stderr();
    // Each format is a type of its own.
    match format {
        LogFormat::Text if journal => {
            let lines = lines.without_time().map_event_format(|format| Prioritised { format, journal });
            begun.with(lines).init();
        }
        LogFormat::Text => begun.with(lines).init(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            begun.with(lines.map_event_format(|format| Prioritised { format, journal })).init();
        }
    }
    level::begin(level, Box::new(move |filter| Ok(changeable.reload(filter)?)));
    std::panic::set_hook(Box::new(panicked));
    Ok(())
}

/// Says something on standard error after the lines that were logged before; false if nothing is logged here.
pub(crate) fn say(text: &str) -> bool {
    let Some(queue) = QUEUE.get() else { return false };
    queue.put(format!("{}\n", for_stderr(text)).as_bytes());
    true
}

/// Something for an operator, as it goes to standard error.
pub(crate) fn for_stderr(text: &str) -> Cow<'_, str> {
    if journal::reads_stderr() { journal::prioritised(text) } else { text.into() }
}

/// Has the thread that writes the log do something, soon; false where that can't be, or where nothing is logged here.
pub(crate) fn on_its_thread(errand: Box<dyn FnOnce() + Send>) -> bool {
    QUEUE.get().is_some_and(|queue| queue.ask(errand))
}

/// Waits, not for ever, until what was said is written.
pub(crate) fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(PATIENCE);
    }
}

/// Says what is to be said of a panic. The process ends when this returns.
fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let mut text = format!("thread {name} {panic}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text = format!("{text}\n{backtrace}");
    }
    say(&text);
    if let Some(queue) = QUEUE.get() {
        queue.flush(PANIC_PATIENCE);
    }
}
