//! Rules as the program `nft` writes them, read back from a network namespace.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn datagram() -> Packet {
    Packet {
        transport: Transport::Udp,
        source: Some(at("10.0.0.2:10000")),
        destination: at("10.0.0.1:10000"),
        comes_by: Some("eth0".to_owned()),
    }
}

/// Reads what `nft` makes of these rules in a network namespace of its own; to be called on a thread that ends with it.
fn read(rules: &str) -> Ruleset {
    let script = "printf %s \"$0\" | nft -f - && echo done && exec cat";
    let mut keeper = Command::new("unshare")
        .args(["--net", "sh", "-c", script, rules])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    let made = keeper.stdout.take().unwrap().read_exact(&mut said);
    assert!(made.is_ok() && said == *b"done\n", "{rules}");
    let namespace = File::open(format!("/proc/{}/ns/net", keeper.id())).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
    Ruleset::read().unwrap()
}

fn drops(rules: &str, packet: &Packet) -> Option<String> {
    let (rules, packet) = (rules.to_owned(), packet.clone());
    std::thread::spawn(move || read(&rules).drops(Hook::Input, &packet)).join().unwrap()
}

/// The rules of an input chain with this policy, after a chain that they may jump to.
fn input(policy: &str, rules: &str) -> String {
    format!(
        "table inet filter {{ chain peers {{ ip saddr 10.0.0.0/24 accept; }}\n chain input {{ type filter hook input priority 0; \
         policy {policy}; {rules}\n }}\n}}"
    )
}

fn is_possible() -> bool {
    let possible = rustix::process::geteuid().is_root() && Command::new("nft").arg("-v").output().is_ok();
    if !possible {
        eprintln!("SKIPPED: rules in a network namespace need root and the program nft");
    }
    possible
}

#[test]
fn what_is_certainly_dropped_is_told_with_the_chain() {
    if !is_possible() {
        return;
    }
    let by_input = Some("inet filter input".to_owned());
    for (policy, rules) in [
        ("drop", ""),
        ("drop", "tcp dport 6443 accept; iifname \"lo\" accept"),
        ("drop", "ct state established,related accept; counter"),
        ("drop", "udp dport 10001 accept; ip saddr 10.0.1.0/24 accept; iifname \"eth1*\" accept"),
        ("accept", "udp dport 10000 drop"),
        ("accept", "ip saddr 10.0.0.2 counter log reject"),
        ("accept", "ip daddr 10.0.0.1 udp sport 10000 goto lost; }\n chain lost { drop"),
        ("accept", "udp dport 9999-10001 ct state new drop"),
        ("drop", "jump quiet; }\n chain quiet { ip saddr 10.0.0.0/24 return; accept"),
        ("drop", "tcp dport { 22, 6443 } accept"),
    ] {
        let rules = input(policy, rules);
        assert_eq!(drops(&rules, &datagram()), by_input, "{rules}");
    }
}

#[test]
fn what_passes_or_may_pass_is_not_told() {
    if !is_possible() {
        return;
    }
    for (policy, rules) in [
        ("accept", ""),
        ("accept", "tcp dport 10000 drop; udp dport 10001 drop; ip saddr 10.0.0.3 drop"),
        ("drop", "udp dport 10000 accept"),
        ("drop", "jump peers"),
        ("drop", "iifname \"eth*\" accept"),
        // Whether it is in the set isn't looked at.
        ("drop", "udp dport { 53, 10000 } accept"),
        ("drop", "limit rate 10/second accept"),
        ("accept", "limit rate over 10/second drop"),
        ("accept", "ip saddr { 10.0.0.2, 10.0.0.3 } drop"),
    ] {
        let rules = input(policy, rules);
        assert_eq!(drops(&rules, &datagram()), None, "{rules}");
    }
    // Of another IP version, of another kind.
    let other = "table ip6 filter { chain input { type filter hook input priority 0; policy drop; }\n}\n\
                 table ip nat { chain output { type filter hook output priority 0; policy drop; }\n}";
    assert_eq!(drops(other, &datagram()), None);
    let ipv6 = Packet { source: None, destination: at("[fd00::1]:10000"), ..datagram() };
    assert_eq!(drops(other, &ipv6), Some("ip6 filter input".to_owned()));
}

#[test]
fn bytes_that_are_cut_off_say_nothing() {
    let message = [24_u8, 0, 0, 0, 3, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 1, 0];
    assert_eq!(next_message(&mut &message[..]).unwrap().1.len(), 8);
    for length in 0..message.len() {
        assert_eq!(next_message(&mut &message[..length]), None, "{length}");
    }
    assert_eq!(attributes(&message[20..]).count(), 0);
    assert_eq!(judge(&message, &datagram()).1, None);
}

/// Sixteen chains of which each jumps to the next from eight rules: 8^16 ways to the last one.
#[test]
fn chains_that_lead_to_each_other_from_many_rules_are_gone_through_once() {
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let number = |number: i32| number.to_be_bytes();
    let jump = |to: &str| {
        let verdict = Attributes::default().bytes(1, &number(-3)).bytes(2, &text(to));
        let value = Attributes::default().nest(2, &verdict);
        let data = Attributes::default().bytes(1, &number(0)).nest(2, &value);
        let expression = Attributes::default().bytes(1, &text("immediate")).nest(2, &data);
        Attributes::default().nest(1, &expression)
    };
    let mut ruleset = Ruleset::default();
    for place in 0..16 {
        let (name, next) = (format!("c{place}"), format!("c{}", place + 1));
        let mut chain = Attributes::default().bytes(1, &text("t")).bytes(3, &text(&name));
        if place == 0 {
            let hook = Attributes::default().bytes(1, &number(Hook::Input as i32)).bytes(2, &number(0));
            chain = chain.nest(4, &hook).bytes(5, &number(0));
        }
        ruleset.take_chain(INET, chain.as_bytes());
        for _ in 0..8 {
            let rule = Attributes::default().bytes(1, &text("t")).bytes(2, &text(&name));
            ruleset.take_rule(INET, rule.nest(4, &jump(&next)).as_bytes());
        }
    }
    let last = Attributes::default().bytes(1, &text("t")).bytes(3, &text("c16"));
    ruleset.take_chain(INET, last.as_bytes());
    assert_eq!(ruleset.drops(Hook::Input, &datagram()), Some("inet t c0".to_owned()), "by its policy");
}
