//! What fuzzing calls of the import. See [`crate::fuzzing`].

use std::net::Ipv4Addr;
use std::rc::Rc;

use super::{Named, Options, Outcome, Text, mounts, outcome};
use crate::config;

/// Files of one input.
const FILES_MAX: usize = 8;

/// Files of keepalived, haproxy, nginx, kube-vip, or manifests of their Pods, with a zero between; the last is also what others include and
/// mount.
///
/// It is converted or refused, the same each time; what is made of it is a configuration that vipd takes, and what is told of it is made of
/// lines.
pub fn import(bytes: &[u8]) {
    let Ok(all) = std::str::from_utf8(bytes) else { return };
    let files = all.split('\0').take(FILES_MAX).enumerate();
    let texts: Vec<Text> =
        files.map(|(place, text)| (Rc::from(format!("file-{place}")), text.to_owned())).collect();
    let named = |(name, last)| Named {
        name: String::from(name),
        ip: Ipv4Addr::new(10, 0, 0, last).into(),
        port: None,
    };
    let peers = [("master-2", 164), ("master-3", 165)].map(named).to_vec();
    for options in [Options::default(), Options { node: Some("master-1".to_owned()), peers }] {
        let told = converted(&texts, &options);
        assert_eq!(converted(&texts, &options), told);
    }
}

/// What is made of it, and what is told.
fn converted(texts: &[Text], options: &Options) -> (Option<String>, String) {
    let (last, given) = match texts {
        [given @ .., last] if !given.is_empty() => (Some(last), given),
        _ => (None, texts),
    };
    let found = || last.cloned().map(|last| vec![last]).ok_or_else(|| "is not there".to_owned());
    let mounted = mounts::of(given, &mut |_| found());
    match outcome(given, &mounted, options, &mut |_, _| found()) {
        Ok(Outcome { document, report }) => {
            let told = report.to_string();
            let is_odd = |c: char| c.is_control() && c != '\n';
            assert!(!told.contains(is_odd), "{told:?}");
            if let Some(document) = &document {
                let loaded = config::load_text(
                    config::Text::of("config.yaml", document),
                    config::Overrides::default(),
                );
                assert!(loaded.is_ok(), "{document}");
            }
            (document, told)
        }
        Err(fault) => {
            let told = fault.to_string();
            assert!(crate::fuzzing::is_a_line(&told), "{told:?}");
            assert!(!fault.message.is_empty() && !fault.help.is_empty());
            (None, told)
        }
    }
}
