# The parts of ./test, one by one. `./test` also installs what they need.

default:
    @just --list

# Formatting, lints, docs, licences
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
    cargo deny --offline check licenses bans sources

# Tests that need neither root nor other programs
pure:
    ./test pure

# Tests in network namespaces (root)
namespaces:
    ./test namespaces

# The parsers, fuzzed for some seconds each
fuzz:
    ./test fuzz

# The static binary
static:
    .ci/build-static

# The documentation as a site
site:
    .ci/site
