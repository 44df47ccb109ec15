//! What fuzzing has found worth keeping, tried without it: part of the unit tests of each crate that has targets.

use std::fs;
use std::path::Path;

use super::TARGETS;

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
