//! What fuzzing calls, and `cargo test` with the corpus: each entry takes bytes as they would come from outside, whatever they are, and
//! asserts what must hold of what is made of them. `fuzz/` has the targets of the same names; `docs/fuzzing.md` says what each is for.

pub use crate::command::fuzzing::command;
pub use crate::config::fuzzing::{configuration, kube_vip};
pub use crate::convert::fuzzing::import;
pub use crate::status::fuzzing::status;
pub use crate::web::fuzzing::requests;

/// An entry, with the name of its target and corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("requests", requests),
    ("configuration", configuration),
    ("kube_vip", kube_vip),
    ("import", import),
    ("status", status),
    ("command", command),
];

/// What an operator reads in one line is one, and moves nothing on the screen.
pub(crate) fn is_a_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;
