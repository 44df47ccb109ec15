//! What stands in nf_tables, and what happens to what others have put there.

use lb::{Listen, redirect};
use rustix::thread::CapabilitySet;

use crate::segment::{Namespace, Node, PORT, Segment, frontend, serve, virtual_port};

const TABLE: &str = "vipd-10.0.0.9-6443";

#[test]
fn the_rules_name_the_virtual_ips_and_end_with_the_balancer() {
    let Some(segment) = Segment::new(1) else { return };
    let a = &segment.stations[0];
    let node = Node::start(a, frontend(&[1]));

    let ruleset = a.ruleset();
    assert!(ruleset.starts_with(&format!("table inet {TABLE} {{ # progname ")), "{ruleset}");
    assert!(ruleset.contains("flags owner"), "{ruleset}");
    for rule in [
        "ip daddr 10.0.0.9 tcp dport 6443 fib daddr type local dnat ip to 10.0.0.9:16443",
        "ip6 daddr fd00::9 tcp dport 6443 fib daddr type local dnat ip6 to [fd00::9]:16443",
    ] {
        assert!(ruleset.contains(rule), "{rule} in\n{ruleset}");
    }
    assert_eq!(ruleset.matches("jump balancer").count(), 2, "{ruleset}");
    // What `nft list` prints is what operators save.
    Namespace::new().nft("-c -f -", &ruleset);
    assert!(ruleset.contains(&format!("table inet {TABLE}-flows {{")), "{ruleset}");
    for hook in ["hook prerouting priority dstnat - 10", "hook output priority -110"] {
        assert!(ruleset.contains(hook), "{hook} in\n{ruleset}");
    }
    assert_eq!(node.balancer.status().frontends[0].redirected, Some(PORT));

    drop(node);
    assert_eq!(a.ruleset(), "");
}

#[test]
fn what_an_earlier_process_has_left_is_replaced_and_what_others_have_stays() {
    let Some(segment) = Segment::new(2) else { return };
    let [a, client] = &segment.stations[..] else { unreachable!("there are two") };
    serve(a, 'a');
    let foreign = "table ip kept {\n\tchain output {\n\t\ttype nat hook output priority -100; policy accept;\n\t\tip daddr 10.0.0.77 dnat to 10.0.0.1\n\t}\n}\n";
    // As a kernel that ties no table to its process keeps it: a port that nobody listens on any more.
    let stale = format!(
        "table inet {TABLE} {{ chain prerouting {{ type nat hook prerouting priority -110; \
         ip daddr 10.0.0.9 tcp dport 6443 dnat ip to 10.0.0.9:1; }}; chain old {{ }}; }}"
    );
    a.nft("-f -", &format!("{foreign}{stale}"));
    segment.move_to(0);
    client.connect(virtual_port()[0]).map(drop).expect_err("the old table leads nowhere");

    let node = Node::start(a, frontend(&[1]));

    assert_eq!(client.ask(virtual_port()[0]), 'a');
    assert_eq!(node.accepted(), 1);
    assert!(!a.ruleset().contains("chain old"), "{}", a.ruleset());
    assert_eq!(a.nft("list table ip kept", "").replace("filter", "-100"), foreign.replace("filter", "-100"));

    // A firewall that is loaded anew takes all tables away but those that belong to a process.
    a.nft("flush ruleset", "");
    assert!(!a.ruleset().contains("kept"));
    assert_eq!(client.ask(virtual_port()[0]), 'a');
    assert_eq!(node.accepted(), 2);
    a.command("nft", &format!("delete table inet {TABLE}"), "").expect_err("it has an owner");

    a.nft("-f -", foreign);
    drop(node);
    assert!(a.ruleset().starts_with("table ip kept {"), "{}", a.ruleset());
}

#[test]
fn a_port_that_another_process_redirects_is_an_error_that_says_so() {
    let Some(segment) = Segment::new(1) else { return };
    let a = &segment.stations[0];
    let any_port = || {
        let mut frontend = frontend(&[1]);
        if let Listen::Redirected { own, .. } = &mut frontend.listen {
            *own = 0;
        }
        frontend
    };
    let first = Node::start(a, any_port());
    assert!(first.balancer.status().frontends[0].listen.iter().all(|at| at.port() != 0));

    let error = Node::try_start(a, any_port()).map(|_| ()).unwrap_err();

    let lb::Error::Redirect { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(source, redirect::Error::Taken { table } if table == TABLE), "{source}");
    assert!(a.ruleset().contains(TABLE), "the first one's is still there");
}

#[test]
fn the_own_port_that_is_taken_is_named_with_its_key() {
    let Some(segment) = Segment::new(1) else { return };
    let a = &segment.stations[0];
    let _first = Node::start(a, frontend(&[1]));

    let error = Node::try_start(a, frontend(&[1])).map(|_| ()).unwrap_err().to_string();

    assert!(error.contains("10.0.0.9:16443") && error.contains("another `listenPort`"), "{error}");
}

#[test]
fn a_rehearsal_tells_what_would_happen_and_changes_nothing() {
    if Segment::new(0).is_none() {
        return;
    }
    let namespace = Namespace::new();
    namespace.nft("-f -", "table inet vipd-check { chain mine { }; }");
    let before = namespace.ruleset();

    assert!(namespace.enter(redirect::rehearse).unwrap(), "this kernel ties tables to processes");

    assert_eq!(namespace.ruleset(), before);
}

#[test]
fn without_the_right_to_it_the_refusal_is_one_of_permission() {
    if Segment::new(0).is_none() {
        return;
    }
    let refused = Namespace::new().enter(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        // Of this thread, which ends here.
        rustix::thread::set_capabilities(None, sets).unwrap();
        redirect::rehearse().unwrap_err()
    });

    let redirect::Error::Refused { source, .. } = &refused else { panic!("{refused}") };
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
}
