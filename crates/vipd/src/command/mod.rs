//! What an operator tells a running vipd to do: one JSON line on a socket of its own, beside that of the status.
//!
//! The status socket writes to whoever connects, at once, and reads nothing: so it can change nothing, and nobody who asks it
//! waits for what somebody else may be about to say. A command needs to be read first. On the same socket, a vipd could
//! only guess by waiting whether a line is still to come; here every side knows who speaks first.
//!
//! ```text
//!  {"do":"step-down","to":"master-2"}                        the asker, within a second
//!  {"begun":{"to":"master-2"}}                               at once: this node leads no more
//!  {"leads":{"node":"master-2"}}                             once a successor is seen
//!  {"refused":{"why":"not-leader","text":"this node, …"}}    in place of either
//!
//!  {"do":"drain-backend","backend":"master-2"}               the asker
//!  {"backends":[{"balancer":"api","backend":"master-2",…}]}  what has been done
//!
//!  {"do":"log-level","level":"debug"}                        the asker; without a level, it only wants to know
//!  {"log-level":{"level":"debug"}}                           what is logged now
//! ```

mod ask;
mod backend;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod log_level;
mod order;
mod serve;
mod step_down;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use leader::NodeId;
use leader::quorum::StepDownError;
use serde::{Deserialize, Serialize};

pub(crate) use self::backend::backend;
pub(crate) use self::log_level::log_level;
pub(crate) use self::order::{Order, obey};
pub(crate) use self::serve::{Desk, serve};
pub(crate) use self::step_down::step_down;

/// The socket for commands of the vipd whose status socket this is.
pub(crate) fn socket(status: &Path) -> PathBuf {
    let mut path = OsString::from(status);
    path.push(".command");
    path.into()
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    /// Hands the lead over.
    StepDown {
        /// To this node.
        to: Option<String>,
        /// Of this address alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vip: Option<IpAddr>,
    },
    /// Takes a backend out of use.
    DrainBackend {
        /// By its name or address.
        backend: String,
    },
    /// Takes it back.
    EnableBackend {
        /// By its name or address.
        backend: String,
    },
    /// Tells what is logged.
    LogLevel {
        /// From now on, if that is to change.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<String>,
    },
}

/// An answer to it; each is a line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// This node leads no more.
    Begun {
        /// Who should follow, as far as that is known.
        to: Option<String>,
    },
    /// A successor leads.
    Leads {
        /// Which; several, where addresses are spread and go to more than one.
        node: String,
    },
    /// The backends of that name are out of use now, or back.
    Backends(Vec<Maintained>),
    /// This is logged now.
    LogLevel {
        /// As it was asked for.
        level: String,
    },
    /// It was not done, or not to its end.
    Refused(Refusal),
}

/// A backend that was taken out of use, or back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Maintained {
    /// Of which load balancer.
    balancer: String,
    backend: String,
    /// Connections that are open to it.
    open: usize,
    drained: bool,
    /// Others take new connections.
    replaced: bool,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Refusal {
    why: Why,
    /// For people: what, and the way out.
    text: String,
}

/// Why something was not done, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Why {
    /// There is no address here, or nobody to hand it to, ever.
    NoElection,
    /// Another leads, or nobody.
    NotLeader,
    /// The named node is this one.
    Itself,
    /// No node of that name is known.
    Unknown,
    /// The named address is none of this vipd's.
    NoSuchAddress,
    /// No node is known by name.
    Unknowable,
    /// The named node can't take over now.
    Impeded,
    /// No node can take over now.
    NoSuccessor,
    /// This vipd stops anyhow.
    Stopping,
    /// The lead was given up, and nobody took it.
    NotTaken,
    /// This vipd balances nothing.
    NoBalancer,
    /// No backend is called so.
    NoSuchBackend,
    /// It is no log level.
    NoLevel,
    /// The request was not understood.
    NotUnderstood,
    /// Something that a later version says.
    #[serde(other)]
    Other,
}

impl Why {
    /// Whether the same command may succeed a moment later.
    fn passes(self) -> bool {
        match self {
            Self::Impeded | Self::NoSuccessor | Self::Stopping | Self::NotTaken => true,
            Self::NoElection
            | Self::NotLeader
            | Self::Itself
            | Self::Unknown
            | Self::NoSuchAddress
            | Self::Unknowable
            | Self::NoBalancer
            | Self::NoSuchBackend
            | Self::NoLevel
            | Self::NotUnderstood
            | Self::Other => false,
        }
    }
}

impl Refusal {
    fn new(why: Why, text: impl Into<String>) -> Self {
        Self { why, text: text.into() }
    }

    /// A refusal of the election, with the way out.
    fn of(error: &StepDownError, node: &str, leader: Option<&NodeId>) -> Self {
        match error {
            StepDownError::NotLeader => {
                let text = match leader {
                    Some(leader) => {
                        format!("this node, {node}, does not lead; {leader} does: run `vipd step-down` there")
                    }
                    None => format!("this node, {node}, does not lead, and knows nobody who does"),
                };
                Self::new(Why::NotLeader, text)
            }
            StepDownError::NoSuccessor => Self::new(
                Why::NoSuccessor,
                format!("{error}: `vipd status` shows the others; start one, or stop this vipd all the same"),
            ),
            StepDownError::Itself => Self::new(Why::Itself, format!("{error}, or leave out --to")),
            StepDownError::Unknown { .. } => Self::new(Why::Unknown, format!("{error}: correct --to")),
            StepDownError::Unknowable => Self::new(
                Why::Unknowable,
                format!("{error}: leave out --to, or let this vipd list the cluster's nodes"),
            ),
            StepDownError::Impeded { .. } => {
                Self::new(Why::Impeded, format!("{error}; name another, or try again in a moment"))
            }
            StepDownError::Stopped => {
                Self::new(Why::Stopping, "this vipd is about to stop, and hands over by that")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_they_were() {
        let line = |answer: &Answer| serde_json::to_string(answer).unwrap();
        let request = Request::StepDown { to: Some("b".to_owned()), vip: None };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"do":"step-down","to":"b"}"#);
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"do":"step-down"}"#).unwrap(),
            Request::StepDown { to: None, vip: None }
        );
        let one = Request::StepDown { to: None, vip: Some(IpAddr::from([10, 0, 0, 9])) };
        assert_eq!(serde_json::to_string(&one).unwrap(), r#"{"do":"step-down","to":null,"vip":"10.0.0.9"}"#);
        let drain = Request::DrainBackend { backend: "b".to_owned() };
        assert_eq!(serde_json::to_string(&drain).unwrap(), r#"{"do":"drain-backend","backend":"b"}"#);
        let enable = serde_json::from_str(r#"{"do":"enable-backend","backend":"b"}"#).unwrap();
        assert_eq!(Request::EnableBackend { backend: "b".to_owned() }, enable);
        for wrong in [
            r#"{"do":"stepdown"}"#,
            r#"{"do":"drain-backend"}"#,
            r#"{"do":"step-down","from":"b"}"#,
            "{}",
            "step-down",
            "",
        ] {
            assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(line(&Answer::Begun { to: Some("b".to_owned()) }), r#"{"begun":{"to":"b"}}"#);
        assert_eq!(line(&Answer::Leads { node: "b".to_owned() }), r#"{"leads":{"node":"b"}}"#);
        let refused = Answer::Refused(Refusal::new(Why::NotLeader, "no"));
        assert_eq!(line(&refused), r#"{"refused":{"why":"not-leader","text":"no"}}"#);
        let later = serde_json::from_str(r#"{"refused":{"why":"moon-is-full","text":"no"}}"#).unwrap();
        assert_eq!(Answer::Refused(Refusal::new(Why::Other, "no")), later);
    }

    #[test]
    fn a_refusal_says_the_way_out() {
        let id = |name: &str| NodeId::new(name).unwrap();
        let text = |error: &StepDownError, leader: Option<&NodeId>| Refusal::of(error, "a", leader).text;
        assert_eq!(
            text(&StepDownError::NotLeader, Some(&id("b"))),
            "this node, a, does not lead; b does: run `vipd step-down` there"
        );
        let unknown = StepDownError::Unknown { node: id("x"), known: vec![id("b"), id("c")] };
        assert_eq!(text(&unknown, None), "there is no other node x; there is b, c: correct --to");
        let impeded =
            StepDownError::Impeded { node: id("b"), impediment: leader::quorum::Impediment::Resting };
        assert_eq!(
            text(&impeded, None),
            "b can't take over now: it stepped down a moment ago, and rests; name another, or try again in a moment"
        );
    }
}
