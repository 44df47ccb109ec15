//! What vipd says in its log, line by line.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// A connection has ended.
    Access(Access),
    /// The file was read again, and what it says is in force.
    Reloaded,
    /// Something that is a warning or worse.
    Complaint(String),
    /// Anything else.
    Other,
}

/// What the access log tells of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Access {
    pub(super) client: SocketAddr,
    pub(super) backend: Option<SocketAddr>,
    pub(super) to_backend: u64,
    pub(super) to_client: u64,
    pub(super) end: String,
}

#[derive(Deserialize)]
struct Line {
    level: String,
    target: String,
    message: String,
}

/// Reads a line of a log in JSON.
///
/// # Errors
/// If it is none, or one of a connection that lacks something: a client that is gone before it is asked who it is has no address, and
/// clients here are not.
pub(super) fn said(line: &str) -> Result<Said> {
    let Line { level, target, message } =
        serde_json::from_str(line).with_context(|| format!("vipd said: {line}"))?;
    if target == "access" {
        let access = serde_json::from_str(line).with_context(|| format!("vipd said: {line}"))?;
        return Ok(Said::Access(access));
    }
    Ok(if message == "the configuration is in force" {
        Said::Reloaded
    } else if level == "WARN" || level == "ERROR" {
        Said::Complaint(format!("{level} {message}"))
    } else {
        Said::Other
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_are_told_apart() {
        let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"connection","frontend":"api","client":"10.0.0.10:41830","backend":"10.0.0.31:8080","connect_us":412,"total_ms":90211,"to_backend":18702,"to_client":5120933,"end":"finished","target":"access"}"#;
        let Said::Access(access) = said(line).unwrap() else { panic!("it is one of a connection") };
        assert_eq!((access.client.port(), access.to_backend, access.to_client), (41830, 18702, 5_120_933));
        assert_eq!(
            (access.backend.unwrap().to_string().as_str(), access.end.as_str()),
            ("10.0.0.31:8080", "finished")
        );
        let other = |level: &str, message: &str| {
            said(&format!(r#"{{"level":"{level}","message":"{message}","target":"vipd::daemon"}}"#)).unwrap()
        };
        assert_eq!(other("INFO", "the configuration is in force"), Said::Reloaded);
        assert_eq!(other("WARN", "something"), Said::Complaint("WARN something".to_owned()));
        assert_eq!(other("INFO", "something"), Said::Other);
        assert!(said("thread main panicked").is_err());
        assert!(said(r#"{"level":"INFO","message":"connection","target":"access"}"#).is_err());
    }
}
