use std::fs;
use std::path::Path;

use super::*;

/// How many texts are tried; a release of the seed's worth takes seconds.
const ROUNDS: usize = 4_000;

/// Pieces that mean something to one of the readers, or nearly do.
const PIECES: &[&str] = &[
    "{",
    "}",
    ";",
    "\"",
    "'",
    "\\",
    "#",
    "!",
    "$",
    "${A}",
    "$A=1",
    "@a ",
    "~SEQ(",
    "\n",
    "\t",
    "\r\n",
    " ",
    "include *.conf\n",
    "0",
    "65535",
    "65536",
    "18446744073709551616",
    "-1",
    "10.0.0.162",
    "fd00::162",
    "[::]:1",
    ":::",
    "*:8443",
    "é",
    "\u{0}",
    "\u{1b}[",
    "vrrp_instance ",
    "virtual_ipaddress {\n10.0.0.9/33\n}\n",
    "vrrp_sync_group x {\ngroup {\nVI_1\n}\n}\n",
    "frontend ",
    "backend ",
    "listen ",
    "server a b:1 check ",
    "bind 10.0.0.162:6443\n",
    "bind *:10000\n",
    "timeout client 0\n",
    "maxconn 0\n",
    "disabled ",
    "default_backend ",
    "use_backend b if x\n",
    "from ",
    "stream {",
    "upstream a {",
    "listen 1;",
    "proxy_pass a;",
    "- name: x\n",
    "  value: \"1\"\n",
    "&a ",
    "*a ",
    "kind: Pod\n",
    "vip: 10.0.0.9\n",
    "---\n",
    "unicast_peer {\n10.0.0.9\n}\n",
    "unicast_src_ip 10.0.0.162\n",
    "priority 0\n",
    "interface a/b\n",
    "real_server 10.0.0.9 1 {\n}\n",
];

/// Every input file of the tests, with its folder's others, and what the command line says beside them.
fn inputs() -> (Vec<Vec<Text>>, Vec<Options>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert");
    let mut setups: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    setups.sort();
    let read = |setup: std::path::PathBuf| {
        let arguments = fs::read_to_string(setup.join("arguments")).unwrap();
        let mut words = arguments.split_whitespace();
        let (mut texts, mut options) = (Vec::new(), Options::default());
        while let Some(word) = words.next() {
            match word {
                "--node" => options.node = words.next().map(str::to_owned),
                // What is found there is the dice's.
                "--root" => drop(words.next()),
                "--peer" => options.peers.push(words.next().unwrap().parse().unwrap()),
                file => texts.push((Rc::from(file), fs::read_to_string(setup.join(file)).unwrap())),
            }
        }
        (texts, options)
    };
    setups.into_iter().map(read).unzip()
}

/// The place in a text nearest to a number where it can be cut.
fn cut(text: &str, place: usize) -> usize {
    (0..=place.min(text.len())).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

/// Changes a text in one place.
fn mutate(text: &mut String, others: &[Vec<Text>], dice: &mut fastrand::Rng) {
    let place = cut(text, dice.usize(..=text.len()));
    let end = cut(text, place + dice.usize(..40));
    match dice.u8(..6) {
        0 => text.replace_range(place..end.max(place), ""),
        1 => text.insert_str(place, PIECES[dice.usize(..PIECES.len())]),
        2 => text.truncate(place),
        3 => {
            let piece = text[place..end.max(place)].to_owned();
            text.insert_str(place, &piece.repeat(dice.usize(1..4)));
        }
        4 => {
            let mut lines: Vec<&str> = text.lines().collect();
            if lines.len() > 1 {
                let (a, b) = (dice.usize(..lines.len()), dice.usize(..lines.len()));
                lines.swap(a, b);
            }
            *text = lines.join("\n");
        }
        _ => {
            let other = &others[dice.usize(..others.len())];
            let Some((_, other)) = other.get(dice.usize(..other.len().max(1))) else { return };
            let lines: Vec<&str> = other.lines().collect();
            if !lines.is_empty() {
                text.insert_str(place, &format!("\n{}\n", lines[dice.usize(..lines.len())]));
            }
        }
    }
}

/// `VIPD_SEED=… ` repeats a run.
#[test]
fn whatever_stands_in_the_files_nothing_panics_and_what_is_printed_loads() {
    let told = std::env::var("VIPD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = told.unwrap_or_else(|| fastrand::u64(..));
    println!("VIPD_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let (inputs, given) = inputs();
    let names = ["master-1", "master-2", "b", "left", "a"];
    let (mut printed, mut refused, mut told) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let place = dice.usize(..inputs.len());
        let mut texts = inputs[place].clone();
        for (_, text) in &mut texts {
            for _ in 0..dice.usize(..5) {
                mutate(text, &inputs, &mut dice);
            }
        }
        let included = inputs[dice.usize(..inputs.len())].clone();
        let peers = if dice.bool() {
            Vec::new()
        } else {
            vec!["a=10.0.0.1".parse().unwrap(), "b=10.0.0.2:1".parse().unwrap()]
        };
        let node = dice.bool().then(|| names[dice.usize(..names.len())].to_owned());
        let options = if dice.bool() { given[place].clone() } else { Options { node, peers } };
        let mounted = mounts::of(&texts, &mut |_| Ok(included.clone()));
        let outcome = outcome(&texts, &mounted, &options, &mut |_, _| Ok(included.clone()));
        match outcome {
            Ok(Outcome { document, report }) => {
                let _ = report.to_string();
                match document {
                    Some(document) => {
                        printed += 1;
                        let text = config::Text::of("config.yaml", &document);
                        if let Err(findings) = config::load_text(text, Overrides::default()) {
                            panic!("VIPD_SEED={seed}: {findings:?}\n{document}");
                        }
                        assert!(!report.has(Kind::Missing), "VIPD_SEED={seed}: {report}");
                    }
                    None => {
                        told += 1;
                        assert!(
                            report.has(Kind::Missing) || report.has(Kind::Refused),
                            "VIPD_SEED={seed}: {report}"
                        );
                    }
                }
            }
            Err(fault) => {
                refused += 1;
                assert_eq!(fault.to_string().lines().count(), 1, "VIPD_SEED={seed}: {fault}");
            }
        }
    }
    println!("{printed} printed, {told} incomplete, {refused} refused");
    assert!(
        printed > ROUNDS / 50 && refused > ROUNDS / 50 && told > ROUNDS / 50,
        "{printed} {told} {refused}"
    );
}

#[test]
fn depth_size_and_number_are_bounded() {
    let read = |text: String| {
        let texts = [(Rc::from("a"), text)];
        outcome(&texts, &[], &Options::default(), &mut |_, _| {
            Ok(vec![("b".into(), "include x\n".to_owned())])
        })
    };
    let fails = |text: String, why: &str| {
        let fault = read(text).err().map(|fault| fault.to_string()).unwrap_or_default();
        assert!(fault.contains(why), "{why}: {fault}");
    };
    fails(format!("vrrp_instance a {{\n{}", "a {\n".repeat(100)), "more than 16 deep");
    fails("vrrp_instance a {\ninclude b\n}\n".to_owned(), "more than 8 deep");
    fails(format!("vrrp_instance a {{\n{}}}\n", "x 1\n".repeat(30_000)), "more than 20000 statements");
    fails(format!("global\n{}", "x 1\n".repeat(30_000)), "more than 20000 lines");
    fails(format!("stream {{\n{}", "a {\n".repeat(100)), "more in one another, than");
    // What doubles with each definition.
    let doubling: String = (0..60).map(|n| format!("$A{}=$A{n}$A{n}\n", n + 1)).collect();
    fails(format!("$A0=xxxxxxxx\n{doubling}vrrp_instance a {{\n}}\n"), "longer than 8192 bytes");
    fails(format!("global\n{}\n", "x ".repeat(20_000)), "longer than 16384 bytes");
}
