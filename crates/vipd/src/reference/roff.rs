//! Pages of the manual: of a command, and of the configuration file.

use std::fmt::Write as _;

use clap::Command;
use clap_mangen::Man;

use crate::sample;

/// The page of a command.
pub(super) fn command(name: &str, command: Command) -> String {
    let dashed = name.replace(' ', "-");
    // clap keeps names for as long as the program runs.
    let named: &'static str = dashed.clone().leak();
    let command =
        command.name(named).display_name(dashed).bin_name(name.to_owned()).version(env!("CARGO_PKG_VERSION"));
    let mut page = Vec::new();
    Man::new(command).section("1").manual("vipd").render(&mut page).unwrap();
    let mut page = String::from_utf8(page).unwrap();
    page.push_str(".SH SEE ALSO\n\\fBvipd\\fR(1), \\fBvipd.yaml\\fR(5)\n");
    page
}

/// The page of the configuration: the tables of keys in its documentation, and the sample.
pub(super) fn configuration(documentation: &str) -> String {
    let mut page = format!(
        ".TH vipd.yaml 5 \"\" \"vipd {}\" \"vipd\"\n.SH NAME\nvipd.yaml \\- configuration of vipd, /etc/vipd/config.yaml\n",
        env!("CARGO_PKG_VERSION")
    );
    page.push_str(".SH DESCRIPTION\n");
    let mut in_table = false;
    for line in documentation.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let Some(title) = line.strip_prefix("## ") {
            // What comes before the first heading is the description.
            writeln!(page, ".SH \"{}\"", plain(title).to_uppercase()).unwrap();
        } else if let Some(title) = line.strip_prefix("### ") {
            writeln!(page, ".SS \"{}\"", plain(title)).unwrap();
        } else if line.starts_with("| key") {
            in_table = true;
        } else if !line.starts_with('|') {
            in_table = false;
            if !line.starts_with("# ") {
                body(&mut page, line);
            }
        } else if in_table && !line.starts_with("|-") {
            let [key, default, meaning] = cells[..] else { panic!("a row of three: {line}") };
            write!(page, ".TP\n\\fB{}\\fR", plain(key)).unwrap();
            if !default.is_empty() {
                write!(page, " (default: {})", plain(default)).unwrap();
            }
            writeln!(page, "\n{}", guarded(&plain(meaning))).unwrap();
        }
    }
    page.push_str(".SH EXAMPLE\n.nf\n");
    for line in sample::CONFIG.lines() {
        writeln!(page, "{}", guarded(&escaped(line))).unwrap();
    }
    page.push_str(".fi\n.SH SEE ALSO\n\\fBvipd\\fR(1), \\fBvipd-start\\fR(1), \\fBvipd-check\\fR(1)\n");
    page
}

/// A line outside of tables of keys.
fn body(page: &mut String, line: &str) {
    if line.starts_with("```") {
        // The page's own state tells whether one is open.
        let open = page.matches("\n.nf\n").count() > page.matches("\n.fi\n").count();
        page.push_str(if open { ".fi\n" } else { ".PP\n.nf\n" });
    } else if line.is_empty() {
        if !page.ends_with(".PP\n") {
            page.push_str(".PP\n");
        }
    } else if let Some(point) = line.strip_prefix("* ").or_else(|| line.strip_prefix("- ")) {
        writeln!(page, ".IP \\(bu 2\n{}", guarded(&plain(point))).unwrap();
    } else {
        writeln!(page, "{}", guarded(&plain(line.trim_start()))).unwrap();
    }
}

/// Text without the marks of Markdown: links are their words, and code is bold.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            write!(out, "\\fB{}\\fR", escaped(part)).unwrap();
        } else {
            out.push_str(&escaped(part));
        }
    }
    // [words](where)
    while let Some(middle) = out.find("](") {
        let Some(end) = out[middle..].find(')') else { break };
        out.replace_range(middle..=middle + end, "");
        if let Some(begin) = out[..middle].rfind('[') {
            out.remove(begin);
        }
    }
    out.replace("**", "")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

/// A line that is no request.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}
