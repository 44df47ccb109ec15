//! The keys that `config/file.rs` knows, from its text: serde tells nobody.

use std::collections::{BTreeMap, BTreeSet};

/// The structures of a file, and what the values of its enumerations are.
pub(super) struct Shapes {
    /// The fields of each, in order: the key as it is written in a file, and the type in Rust.
    structures: BTreeMap<String, Vec<(String, String)>>,
    choices: BTreeMap<String, Vec<String>>,
    /// What a type that reads itself says of what it takes.
    sayings: BTreeMap<String, String>,
}

impl Shapes {
    /// Reads the source.
    pub(super) fn of(source: &str) -> Self {
        let mut shapes =
            Self { structures: BTreeMap::new(), choices: BTreeMap::new(), sayings: BTreeMap::new() };
        let mut within = Within::Nothing;
        let (mut derived, mut renamed, mut reads) = (false, None, None);
        for line in source.lines() {
            let text = line.trim();
            if line.starts_with("#[derive(") {
                derived = line.contains("Deserialize");
            } else if let Some(name) = declared(line, "pub(super) struct ") {
                within = if derived { Within::Structure(name) } else { Within::Nothing };
            } else if let Some(name) = declared(line, "pub(super) enum ") {
                within = if derived { Within::Choices(name) } else { Within::Nothing };
            } else if line == "}" {
                within = Within::Nothing;
            } else if let Some(name) =
                text.strip_prefix("type Value = ").and_then(|rest| rest.strip_suffix(';'))
            {
                reads = Some(name.to_owned());
            } else if let Some(said) =
                text.strip_prefix("f.write_str(\"").and_then(|rest| rest.strip_suffix("\")"))
            {
                let of_its_own = reads.take().filter(|name: &String| name != "String");
                shapes.sayings.extend(of_its_own.map(|name| (name, said.replace('\\', ""))));
            } else if let Some(name) =
                text.strip_prefix("#[serde(rename = \"").and_then(|rest| rest.split('"').next())
            {
                renamed = Some(name.to_owned());
            } else {
                shapes.member(&within, text, &mut renamed);
            }
        }
        shapes
    }

    fn member(&mut self, within: &Within, text: &str, renamed: &mut Option<String>) {
        match within {
            Within::Structure(name) => {
                let field = text
                    .strip_prefix("pub(super) ")
                    .and_then(|rest| rest.strip_suffix(',')?.split_once(": "));
                let Some((field, kind)) = field else { return };
                let key = renamed.take().unwrap_or_else(|| camel(field));
                self.structures.entry(name.clone()).or_default().push((key, kind.to_owned()));
            }
            Within::Choices(name) => {
                let Some(value) = text.strip_suffix(',') else { return };
                let value = value[..1].to_lowercase() + &value[1..];
                self.choices.entry(name.clone()).or_default().push(value);
            }
            Within::Nothing => {}
        }
    }

    /// All keys, as they are written in a file.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.structures.values().flatten().map(|(key, _)| key.clone()).collect()
    }

    /// A row for each place where a key may stand: its path in the file, what it takes, and the link to where the documentation explains it.
    pub(super) fn table(&self, document: &str) -> String {
        let sections = sections(document);
        let mut rows = String::new();
        self.rows("File", "", &sections, &mut rows);
        rows
    }

    /// Those of a structure, whose own key is explained in the first of these sections.
    fn rows(&self, structure: &str, path: &str, sections: &[(String, String)], rows: &mut String) {
        for (key, kind) in &self.structures[structure] {
            let kind = kind.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(kind);
            let entry = kind.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>'));
            let place = format!("{path}{key}{}", if entry.is_some() { "[]" } else { "" });
            let what = self.takes(kind);
            let explains = |(_, words): &(String, String)| words.split(' ').any(|word| word == key);
            let explained = sections.iter().position(explains);
            let explained =
                explained.unwrap_or_else(|| panic!("docs/configuration.md says nothing of {key}"));
            let title = &sections[explained].0;
            rows.push_str(&format!(
                "| `{place}` | {what} | [{title}](../configuration.md#{}) |\n",
                anchor(title)
            ));
            let inner = entry.unwrap_or(kind);
            if self.structures.contains_key(inner) {
                let nearest_first = [&sections[explained..], &sections[..explained]].concat();
                self.rows(inner, &format!("{place}."), &nearest_first, rows);
            }
        }
    }

    /// What is written for a type of Rust.
    fn takes(&self, kind: &str) -> String {
        if let Some(entry) = kind.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>')) {
            return format!("a list, each {}", self.takes(entry));
        }
        if let Some(values) = self.choices.get(kind) {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            return values.join(", ");
        }
        if let Some(said) = self.sayings.get(kind) {
            return said.clone();
        }
        match kind {
            "String" => "a text".to_owned(),
            "bool" => "`true` or `false`".to_owned(),
            "u8" => "a number, 0 to 255".to_owned(),
            "u16" => "a number, 0 to 65535".to_owned(),
            "u32" | "usize" => "a number".to_owned(),
            "BTreeMap<String, String>" => "texts by name".to_owned(),
            other => {
                assert!(self.structures.contains_key(other), "what does a {other} take?");
                "keys of its own".to_owned()
            }
        }
    }
}

enum Within {
    Structure(String),
    Choices(String),
    Nothing,
}

fn declared(line: &str, how: &str) -> Option<String> {
    let name = line.strip_prefix(how)?.split([' ', '(']).next()?;
    Some(name.to_owned())
}

/// The headings of a document, each with all the words of its code up to the next.
fn sections(document: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in document.lines() {
        if let Some(title) = line.strip_prefix("### ").or_else(|| line.strip_prefix("## ")) {
            sections.push((title.to_owned(), String::new()));
        } else if let Some((_, words)) = sections.last_mut() {
            for code in line.split('`').skip(1).step_by(2) {
                words.push_str(&code.replace(|c: char| !c.is_alphanumeric(), " "));
                words.push(' ');
            }
        }
    }
    // Where a key has a row of its own is looked at before where it is mentioned.
    let row = |(title, _): &(String, String)| {
        let lines = document.split(&format!("# {title}\n")).nth(1).unwrap_or_default();
        let lines = lines.lines().take_while(|line| !line.starts_with('#'));
        let heads = lines
            .filter_map(|line| line.strip_prefix("| ").unwrap_or(line).strip_prefix('`')?.split(" |").next());
        (
            title.clone(),
            heads.map(|head| head.replace(|c: char| !c.is_alphanumeric(), " ") + " ").collect::<String>(),
        )
    };
    let rows: Vec<_> = sections.iter().map(row).collect();
    rows.into_iter().chain(sections).collect()
}

/// How a heading is linked to.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-');
    kept.collect::<String>().to_lowercase().replace(' ', "-")
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
    let source = "#[derive(Deserialize)]\npub(super) struct File {\n    pub(super) one_two: Option<Vec<Kind>>,\n    #[serde(rename = \"type\")]\n    pub(super) kind: u8,\n}\n#[derive(Deserialize)]\npub(super) enum Kind {\n    OneWay,\n    None,\n}\npub(super) fn x(a: u8) {}\n";
    let shapes = Shapes::of(source);
    assert_eq!(shapes.keys(), BTreeSet::from(["oneTwo".to_owned(), "type".to_owned()]));
    let table = shapes.table("## A few\n`type` goes with\n## It's all\n| `oneTwo` | a |\n`type`\n");
    let wanted = "| `oneTwo[]` | a list, each `oneWay`, `none` | [It's all](../configuration.md#its-all) |\n\
                  | `type` | a number, 0 to 255 | [A few](../configuration.md#a-few) |\n";
    assert_eq!(table, wanted);
}
