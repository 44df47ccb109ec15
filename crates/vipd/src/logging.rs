//! Log lines on standard error: text for people, or one JSON object a line.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::cli::LogFormat;

/// What is not logged unless somebody asks for it by name.
const QUIET: &str = "kube_client=off";

/// Begins to log.
///
/// # Errors
/// A filter that can't be parsed.
pub(crate) fn begin(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        anyhow::anyhow!("`{level}` is not a log level: {error}; write error, warn, info, debug or trace")
    })?;
    // The client of the Kubernetes API calls each failed request an error; whether it is one, the election tells.
    let filter = if level.contains("kube") { filter } else { filter.add_directive(QUIET.parse()?) };
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // Of a line that can't be written nothing can be said either: the attempt would end the process, and the address with it.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
