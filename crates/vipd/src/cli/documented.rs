//! Each line of vipd's that the documents show can be typed so.

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;

use super::*;

/// The pages: README, and what is in `docs/` but for the reference, whose lines are forms and generated.
fn pages() -> Vec<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let in_docs = fs::read_dir(repository.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = in_docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.push(repository.join("README.md"));
    pages
}

/// What a page shows to be typed: the lines of its blocks, and the spans of its text.
fn shown(page: &str) -> (Vec<String>, Vec<String>) {
    let (mut lines, mut in_block) = (Vec::<String>::new(), false);
    // Each paragraph in one line.
    let mut text = String::new();
    for line in page.lines() {
        let is_fence = line.trim_start().starts_with("```");
        if is_fence || line.is_empty() {
            in_block ^= is_fence;
            text.push('\n');
        } else if !in_block {
            text.push_str(line);
            text.push(' ');
        } else if let Some(begun) = lines.pop_if(|before| before.ends_with(" \\")) {
            lines.push(begun.trim_end_matches('\\').to_owned() + line);
        } else {
            lines.push(line.to_owned());
        }
    }
    let spans = text.lines().flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    (lines, spans.map(|span| span.replace("\\|", "|")).collect())
}

/// The arguments of each vipd that a line of a shell starts: by its name, in a container, or by the image's entry point.
fn commands(line: &str) -> Vec<Vec<OsString>> {
    let line = line.split(" #").next().unwrap_or_default();
    let parts = line.split(['|', ';', '&', '(', ')']);
    parts
        .filter_map(|part| {
            // Where its output goes is the shell's.
            let words: Vec<&str> = part.split(['<', '>']).next()?.split_whitespace().collect();
            let begins = match words.first()? {
                first if *first == "vipd" || first.ends_with("/vipd") => 0,
                &"docker" if words.contains(&"IMAGE") => words.iter().position(|word| *word == "IMAGE")?,
                _ => words.iter().position(|word| *word == "/vipd")?,
            };
            let typed = words[begins..]
                .iter()
                .map(|word| word.trim_matches(['[', ']', '…']))
                .filter(|word| !word.is_empty());
            Some(arguments(typed.map(OsString::from)))
        })
        .collect()
}

/// Why a line can't be typed so. In the text of a page, a command may be named without what it needs.
fn wrong(typed: &[OsString], whole: bool) -> Option<clap::Error> {
    let error = Cli::try_parse_from(typed).err()?;
    let is_short = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let is_asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    (!is_asked && (whole || !is_short)).then_some(error)
}

#[test]
fn each_line_of_the_documents_can_be_typed() {
    let (mut read, mut refused) = (0, Vec::new());
    for page in pages() {
        let (lines, spans) = shown(&fs::read_to_string(&page).unwrap());
        for (texts, whole) in [(lines, true), (spans, false)] {
            for (text, typed) in
                texts.iter().flat_map(|text| commands(text).into_iter().map(move |typed| (text, typed)))
            {
                read += 1;
                refused.extend(
                    wrong(&typed, whole).map(|error| format!("{}: `{text}`: {error}", page.display())),
                );
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(read > 100, "{read} lines were found");
}

#[test]
fn a_line_is_found_wherever_it_is_typed() {
    let found = |line| {
        commands(line)
            .iter()
            .map(|words| words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(found("vipd step-down [--to NODE]   # to another"), ["vipd step-down --to NODE"]);
    assert_eq!(found("vipd manifest rbac | kubectl apply -f -"), ["vipd manifest rbac"]);
    assert_eq!(found("kubectl -n kube-system exec vipd-master-1 -- /vipd status"), ["/vipd status"]);
    assert_eq!(
        found("docker run --rm IMAGE /kube-vip sample manifest > vipd.yaml"),
        ["IMAGE sample manifest"]
    );
    assert_eq!(
        found("docker cp a b && vipd convert nginx.conf > c; systemctl start vipd"),
        ["vipd convert nginx.conf"]
    );
    assert!(found("journalctl -u vipd -p warning").is_empty());
    let [named, misspelt] = ["vipd step-down --to", "vipd status --jsn"].map(|line| commands(line).remove(0));
    assert!(
        wrong(&commands("vipd convert")[0], true).is_some()
            && wrong(&commands("vipd convert")[0], false).is_none()
    );
    assert!(wrong(&named, false).is_some() && wrong(&misspelt, false).is_some());
}
