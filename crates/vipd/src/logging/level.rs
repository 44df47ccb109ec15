//! What is logged: read from the command line, changed while vipd runs.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::anyhow;
use tracing::info;
use tracing_subscriber::EnvFilter;

/// What is not logged unless somebody asks for it by name.
const QUIET: &str = "kube_client=off";

/// That the level has changed is logged at whatever level.
const CHANGES: &str = "vipd::logging::level=info";

/// Puts a filter in force.
type Swap = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>;

static IN_FORCE: OnceLock<(Swap, Mutex<String>)> = OnceLock::new();

/// The filter that a level means, alone or per part.
///
/// # Errors
/// It means nothing.
pub(crate) fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let refused =
        |why: String| anyhow!("`{level}` is not a log level: {why}; write error, warn, info, debug or trace");
    if level.trim().is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    let filter = EnvFilter::try_new(level).map_err(|error| refused(error.to_string()))?;
    // A word that is no level is taken for the name of a part, of which everything would be logged and of all others nothing.
    if let Some(word) = level.split(',').find(|word| !is_directive(word)) {
        return Err(refused(format!("there is no level `{}`", word.trim())));
    }
    // The client of the Kubernetes API calls each failed request an error; whether it is one, the election tells.
    let filter = if level.contains("kube") { filter } else { filter.add_directive(QUIET.parse()?) };
    Ok(filter.add_directive(CHANGES.parse()?))
}

/// Whether this is a level, or one for a part.
fn is_directive(word: &str) -> bool {
    let word = word.trim();
    word.contains(['=', '[']) || word.parse::<tracing::level_filters::LevelFilter>().is_ok()
}

/// Tells how the filter is changed from now on, and what is in force.
pub(super) fn begin(level: &str, swap: Swap) {
    let _ = IN_FORCE.set((swap, Mutex::new(level.to_owned())));
}

/// What is logged now.
pub(crate) fn level() -> String {
    let Some((_, level)) = IN_FORCE.get() else { return String::new() };
    level.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Logs something else from now on, and says so. It takes a lock that whoever logs takes too: not for the main loop's thread.
///
/// # Errors
/// The level means nothing; nothing has changed then.
pub(crate) fn set_level(level: &str) -> anyhow::Result<()> {
    let filter = filter(level)?;
    let Some((swap, known)) = IN_FORCE.get() else { return Err(anyhow!("nothing is logged here")) };
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    swap(filter)?;
    let before = std::mem::replace(&mut *known, level.to_owned());
    info!(level, before, "the log level has changed, by command");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_may_be_per_part_and_a_word_that_is_none_is_refused() {
        for level in [
            "error",
            "WARN",
            "info",
            "debug",
            "trace",
            "off",
            "info,lb=debug",
            "lb=debug, info",
            "kube_client=warn",
        ] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for (level, words) in [
            ("loud", "no level `loud`"),
            ("", "empty"),
            ("info,=,", "not a log level"),
            ("info,lb=loud", "not a log level"),
        ] {
            let error = filter(level).unwrap_err().to_string();
            assert!(error.contains(words) && error.lines().count() == 1, "{level}: {error}");
        }
    }
}
