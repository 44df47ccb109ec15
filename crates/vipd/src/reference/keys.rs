//! The keys that `config/file.rs` knows, from its text: serde tells nobody.

use std::collections::BTreeSet;

/// The fields of all structures, as they are written in a file.
pub(super) fn of(source: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut renamed = None;
    for line in source.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("#[serde(rename = \"").and_then(|rest| rest.split('"').next()) {
            renamed = Some(name.to_owned());
        } else if let Some((name, _)) =
            line.strip_prefix("pub(super) ").and_then(|rest| rest.split_once(": "))
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
        {
            keys.insert(renamed.take().unwrap_or_else(|| camel(name)));
        }
    }
    keys
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut key = words.next().unwrap_or_default().to_owned();
    for word in words {
        key.extend(word.chars().take(1).flat_map(char::to_uppercase));
        key.extend(word.chars().skip(1));
    }
    key
}

#[test]
fn fields_are_found_under_the_names_of_the_file() {
    let source = "struct A {\n    pub(super) one_two: u8,\n    #[serde(rename = \"type\")]\n    pub(super) kind: u8,\n}\npub(super) fn x(a: u8) {}\n";
    assert_eq!(of(source), BTreeSet::from(["oneTwo".to_owned(), "type".to_owned()]));
}
