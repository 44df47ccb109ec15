//! What is logged: read from the command line, changed while vipd runs.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::anyhow;
use tracing::info;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// What is not logged unless somebody asks for it by name.
const QUIET: &str = "kube_client";

/// That the level has changed is logged at whatever level.
const CHANGES: &str = "vipd::logging::level";

/// Puts a filter in force.
type Swap = Box<dyn Fn(Targets) -> anyhow::Result<()> + Send + Sync>;

static IN_FORCE: OnceLock<(Swap, Mutex<String>)> = OnceLock::new();

/// The filter that a level means, alone or per part.
///
/// # Errors
/// It means nothing.
pub(crate) fn filter(level: &str) -> anyhow::Result<Targets> {
    let refused =
        |why: String| anyhow!("`{level}` is not a log level: {why}; write error, warn, info, debug or trace");
    if level.trim().is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    let mut filter = Targets::new();
    // The client of the Kubernetes API calls each failed request an error; whether it is one, the election tells.
    if !level.contains("kube") {
        filter = filter.with_target(QUIET, LevelFilter::OFF);
    }
    for word in level.split(',').map(str::trim) {
        let (part, name) = word.split_once('=').map_or((None, word), |(part, name)| (Some(part), name));
        // An empty one would be read as `error`.
        let found = name.parse().ok().filter(|_| !name.is_empty());
        let found: LevelFilter = found.ok_or_else(|| refused(format!("there is no level `{name}`")))?;
        filter = match part {
            None => filter.with_default(found),
            Some(part) if is_part(part) => filter.with_target(part, found),
            Some(part) => return Err(refused(format!("`{part}` is no part, as `lb` is"))),
        };
    }
    Ok(filter.with_target(CHANGES, LevelFilter::INFO))
}

/// Whether a part can have this name: the path of a Rust module.
fn is_part(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:".contains(letter))
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
    use tracing::Level;

    #[test]
    fn a_level_holds_for_its_part_and_that_of_all_for_the_rest() {
        let logged = |level: &str, part: &str, of: Level| filter(level).unwrap().would_enable(part, &of);
        assert!(logged("info,lb=debug", "lb::pool", Level::DEBUG));
        assert!(!logged("info,lb=debug", "vip", Level::DEBUG) && logged("info,lb=debug", "vip", Level::INFO));
        assert!(!logged("lb=debug", "vip", Level::ERROR), "nothing is said of the rest");
        assert!(!logged("trace", "kube_client::client", Level::ERROR));
        assert!(logged("info,kube_client=warn", "kube_client::client", Level::WARN));
        assert!(logged("off", CHANGES, Level::INFO) && !logged("off", "vipd", Level::ERROR));
    }

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
            ("info,=,", "no level ``"),
            ("info,lb=loud", "no level `loud`"),
            ("info,lb=", "no level ``"),
            ("info,=debug", "`` is no part"),
            // What fields hold would be compared by expressions, one of which can take minutes and all memory to read.
            ("info,lb[request{path=-21............................6}]=debug", "no level"),
            ("info,lb[request]=debug", "`lb[request]` is no part"),
        ] {
            let error = filter(level).unwrap_err().to_string();
            assert!(error.contains(words) && error.lines().count() == 1, "{level}: {error}");
        }
    }
}
