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
    cargo test -p leader -p lb -p vipd --locked -- --skip connections:: --skip tables::

# Tests in network namespaces (root)
namespaces:
    cargo test -p vip -p lab --locked
    cargo test -p lb --locked --test redirect

# The static binary
static:
    .ci/build-static
