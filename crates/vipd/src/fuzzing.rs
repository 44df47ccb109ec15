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
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Each input that fuzzing has found worth keeping.
    #[test]
    fn what_fuzzing_has_kept_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut ran = 0;
            for file in files {
                target(&fs::read(file.unwrap().path()).unwrap());
                ran += 1;
            }
            assert!(ran > 0, "{name} has no corpus");
        }
    }
}
