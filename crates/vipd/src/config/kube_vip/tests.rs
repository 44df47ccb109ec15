use std::collections::BTreeSet;

use clap::{Args, Command, FromArgMatches};
use k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::config::Election;

/// Every name of kube-vip, with what becomes of it.
const NAMES: &str = include_str!("../../../tests/kube_vip/names.txt");

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn flags(arguments: &[&str]) -> Flags {
    let command = Flags::augment_args(Command::new("manager").no_binary_name(true));
    Flags::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
}

/// An environment in which every setting that is honoured makes a difference.
fn base() -> BTreeMap<String, String> {
    environment(&[
        ("vip_arp", "true"),
        ("cp_enable", "true"),
        ("address", "10.0.0.40,vip.example"),
        ("vip_nodename", "n1"),
        ("vip_interface", "eth0"),
        ("lb_enable", "true"),
    ])
}

fn lookups() -> Lookups {
    let found = vec!["fd00::40".parse().unwrap(), "10.0.0.42".parse().unwrap()];
    Lookups { names: BTreeMap::from([("vip.example".to_owned(), found)]), ..Lookups::default() }
}

/// All that comes of settings: the mirror of the file, the configuration or the errors, and the log level.
fn outcome(settings: &Settings) -> String {
    let file = fill::fill(settings, &lookups()).file;
    format!("{file:?} {:?} {}", settings.build(&lookups()), settings.log_level())
}

/// What is found with these settings, as an operator reads it.
fn findings(flags: &Flags, environment: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    match Settings::gather(flags, environment).build(&lookups()) {
        Ok((_, findings)) | Err(findings) => findings,
    }
}

fn built(pairs: &[(&str, &str)]) -> Config {
    let mut all = environment(&[("vip_arp", "true"), ("cp_enable", "true"), ("vip_nodename", "n1")]);
    all.extend(environment(pairs));
    Settings::gather(&Flags::default(), &all).build(&lookups()).unwrap().0
}

fn election(config: &Config) -> &leader::kubernetes::Config {
    match &config.vips[0].election {
        Election::Kubernetes(election) => election,
        Election::Peers(election) => panic!("{election:?}"),
    }
}

fn addresses(config: &Config) -> Vec<String> {
    config.vips[0].addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn every_name_of_kube_vip_is_honoured_warned_about_or_refused() {
    let mut seen = BTreeSet::new();
    for line in NAMES.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [form, name, meaning, value] = words[..] else { panic!("{line}") };
        let is_flag = form == "flag";
        let setting = table::all()
            .find(|setting| if is_flag { setting.flags } else { setting.environment }.contains(&name))
            .unwrap_or_else(|| panic!("{form} {name} is not in the table"));
        seen.insert((form, name));

        let mut without = base();
        setting.environment.iter().for_each(|name| drop(without.remove(*name)));
        let mut with = without.clone();
        let given = if is_flag {
            flags(&[&format!("--{name}={value}")])
        } else {
            with.insert(name.to_owned(), value.to_owned());
            Flags::default()
        };
        let origin = if is_flag { format!("flag --{name}") } else { format!("environment {name}") };
        let before = outcome(&Settings::gather(&Flags::default(), &without));
        let after = outcome(&Settings::gather(&given, &with));
        let found = findings(&given, &with);
        let count = |severity| {
            found.iter().filter(|finding| finding.severity == severity && finding.origin == origin).count()
        };
        match meaning {
            "honoured" => assert_ne!(before, after, "{line}: changes nothing"),
            "warned" => assert_eq!(count(Severity::Warning), 1, "{line}: {found:?}"),
            "refused" => assert_eq!(count(Severity::Error), 1, "{line}: {found:?}"),
            _ => panic!("{line}"),
        }
        let kind = match setting.meaning {
            table::Meaning::Honoured { .. } => "honoured",
            table::Meaning::Warned { .. } => "warned",
            table::Meaning::Refused { .. } => "refused",
        };
        assert_eq!(kind, meaning, "{line}");
    }
    // And the table has no name that the list lacks, but for a spelling that is only an offer.
    for setting in table::all() {
        for flag in setting.flags.iter().filter(|flag| **flag != "loseLeadershipTimeoutSeconds") {
            assert!(seen.contains(&("flag", *flag)), "flag {flag} is not in the list");
        }
        for name in setting.environment {
            assert!(seen.contains(&("env", *name)), "environment {name} is not in the list");
        }
    }
}

#[test]
fn values_that_say_what_is_so_anyway_are_silent() {
    for setting in table::all() {
        let silent = match setting.meaning {
            table::Meaning::Honoured { .. } => &[],
            table::Meaning::Warned { quiet, .. } => quiet,
            table::Meaning::Refused { off, .. } => off,
        };
        for (value, name) in
            silent.iter().flat_map(|value| setting.environment.iter().map(move |name| (value, name)))
        {
            let mut all = base();
            all.insert((*name).to_owned(), (*value).to_owned());
            let found = findings(&Flags::default(), &all);
            let origin = format!("environment {name}");
            assert!(found.iter().all(|finding| finding.origin != origin), "{name}={value}: {found:?}");
        }
    }
}

#[test]
fn the_environment_wins_over_flags_and_an_empty_one_counts_as_unset() {
    let given = flags(&["--leaseDuration", "20", "--interface=eth5", "--log", "-4", "-n", "other"]);
    let mut all = base();
    all.insert("vip_leaseduration".to_owned(), "30".to_owned());
    all.insert("vip_interface".to_owned(), String::new());
    let settings = Settings::gather(&given, &all);
    assert_eq!(settings.text(Key::LeaseDuration), Some("30"));
    assert_eq!(settings.text(Key::Interface), Some("eth5"));
    assert_eq!(settings.log_level(), "debug");
    assert_eq!(settings.text(Key::Namespace), Some("other"));
}

#[test]
fn booleans_are_those_of_go() {
    for (text, on) in [("1", true), ("t", true), ("TRUE", true), ("True", true), ("0", false), ("F", false)] {
        let settings = Settings::gather(&Flags::default(), &environment(&[("vip_arp", text)]));
        assert_eq!(settings.is_on(Key::Arp), on, "{text}");
    }
    let settings = Settings::gather(&flags(&["--arp", "--controlplane=f"]), &environment(&[]));
    assert!(settings.is_on(Key::Arp) && !settings.is_on(Key::ControlPlane));
}

#[test]
fn values_that_do_not_parse_are_refused_with_their_name_and_what_would_be_right() {
    for (name, value, right) in [
        ("vip_arp", "yes", "true or false"),
        ("port", "0", "a port from 1 to 65535"),
        ("vip_leaseduration", "15s", "a whole number of seconds"),
        ("vip_loglevel", "debug", "a whole number"),
        ("bgp_enable", "maybe", "true or false"),
        ("vip_subnet", "64,64", "no prefix length of IPv4"),
        ("vip_subnet", "130", "is not a prefix length"),
        ("vip_subnet", "24,64,1", "more than two"),
        ("dns_mode", "any", "write first, ipv4, ipv6 or dual"),
        ("vip_leaseannotations", "a=b", "not a JSON object"),
        ("health_check_port", "80", "from 1024 to 65535"),
        ("instance_name", "a/b", "at most 80 letters"),
        ("kubernetes_addr", "https://kubernetes:6443", "is a name"),
        ("kubernetes_addr", "https://10.0.0.40:6443", "is a virtual address"),
        ("vip_leasename", "A_b", "can't be the name of a Lease"),
        ("vip_renewdeadline", "15", "must be shorter"),
        ("vip_nodename", "n_1", "can't be the name of a Kubernetes node"),
        ("vip_interface", "interface-number-three", "can't be the name of an interface"),
        ("address", "10.0.0.999", "is not an IP address"),
        ("address", "127.0.0.1", "can't be a virtual IP"),
        ("k8s_config_file", "admin.conf", "not the absolute path"),
    ] {
        let mut all = base();
        all.insert(name.to_owned(), value.to_owned());
        let found = findings(&Flags::default(), &all);
        let own = found.iter().filter(|finding| finding.severity == Severity::Error);
        let own: Vec<String> = own.map(ToString::to_string).collect();
        assert_eq!(own.len(), 1, "{name}={value}: {found:?}");
        assert!(own[0].starts_with(&format!("error: environment {name}: ")), "{own:?}");
        assert!(own[0].contains(right), "{own:?}");
    }
}

#[test]
fn misspelt_names_are_told_with_a_suggestion_and_others_left_alone() {
    let mut all = base();
    for name in ["vip_adress", "cp_enabled", "svc_nonsense_of_ours", "VIP_SERVICE_HOST", "path"] {
        all.insert(name.to_owned(), "x".to_owned());
    }
    let found = findings(&Flags::default(), &all);
    let help = |name: &str| {
        let origin = format!("environment {name}");
        found.iter().find(|finding| finding.origin == origin).map(|finding| finding.help.as_str())
    };
    assert_eq!(help("vip_adress"), Some("did you mean `vip_address`?"));
    assert_eq!(help("cp_enabled"), Some("did you mean `cp_enable`?"));
    assert!(help("svc_nonsense_of_ours").is_some());
    assert_eq!(help("VIP_SERVICE_HOST"), None);
    assert_eq!(help("path"), None);
}

#[test]
fn what_is_not_asked_for_is_kube_vips_default() {
    let config = built(&[("address", "10.0.0.40,fd00::40")]);
    let election = election(&config);
    assert_eq!((election.namespace.as_str(), election.name.as_str()), ("kube-system", "plndr-cp-lock"));
    assert_eq!(election.timing, leader::lease::Timing::DEFAULT);
    assert_eq!(election.me.as_str(), "n1");
    assert_eq!(election.access.own.to_string(), "127.0.0.1:6443");
    assert_eq!(addresses(&config), ["10.0.0.40/32", "fd00::40/128"]);
    assert!(config.balancer.is_none());
    let check = config.health_check.unwrap();
    assert_eq!(check.frontends[0].backends[0].address.to_string(), "127.0.0.1:6443");
}

#[test]
fn prefixes_go_to_the_family_that_they_are_meant_for() {
    let prefixes = |address: &str, subnet: &str| {
        addresses(&built(&[("address", address), ("vip_subnet", subnet)])).join(" ")
    };
    assert_eq!(prefixes("10.0.0.40", "24"), "10.0.0.40/24");
    assert_eq!(prefixes("10.0.0.40", "/24"), "10.0.0.40/24");
    assert_eq!(prefixes("10.0.0.40,fd00::40", "24"), "10.0.0.40/24 fd00::40/128");
    assert_eq!(prefixes("10.0.0.40,fd00::40", "64"), "10.0.0.40/32 fd00::40/64");
    assert_eq!(prefixes("fd00::40", "64"), "fd00::40/64");
    assert_eq!(prefixes("fd00::40,10.0.0.40", "24,64"), "fd00::40/64 10.0.0.40/24");
}

#[test]
fn an_automatic_prefix_is_that_of_the_interfaces_subnet() {
    let mut all = base();
    all.extend(environment(&[("address", "10.0.0.40,fd00::40"), ("vip_subnet", "auto")]));
    let settings = Settings::gather(&Flags::default(), &all);
    assert!(settings.wants_subnets());
    let own = |text: &str| text.parse().unwrap();
    let mut lookups = Lookups { subnets: vec![own("10.0.0.1/22"), own("fd00::1/64")], ..Lookups::default() };
    assert_eq!(addresses(&settings.build(&lookups).unwrap().0), ["10.0.0.40/22", "fd00::40/64"]);
    // Before the interface is looked at, nothing is wrong.
    assert!(settings.check().is_ok());
    lookups.subnets.pop();
    let found = settings.build(&lookups).unwrap_err();
    assert!(found.iter().any(|finding| finding.message.contains("fd00::40 is in no subnet")), "{found:?}");
}

#[test]
fn names_are_resolved_as_the_mode_says() {
    let chosen = |mode: &str| addresses(&built(&[("address", "vip.example"), ("dns_mode", mode)])).join(" ");
    assert_eq!(chosen("first"), "fd00::40/128");
    assert_eq!(chosen("ipv4"), "10.0.0.42/32");
    assert_eq!(chosen("ipv6"), "fd00::40/128");
    assert_eq!(chosen("dual"), "10.0.0.42/32 fd00::40/128");
}

#[test]
fn the_namespace_of_a_lease_is_its_own_then_the_accounts_then_the_one_that_is_set() {
    let lease = |pairs: &[(&str, &str)], namespace: Option<&str>| {
        let mut all = base();
        all.extend(environment(pairs));
        let lookups = Lookups { namespace: namespace.map(str::to_owned), ..lookups() };
        let config = Settings::gather(&Flags::default(), &all).build(&lookups).unwrap().0;
        let election = election(&config);
        format!("{}/{}", election.namespace, election.name)
    };
    let set = [("cp_namespace", "set")];
    assert_eq!(lease(&[("vip_leasename", "own/lease"), set[0]], Some("account")), "own/lease");
    assert_eq!(lease(&set, Some("account")), "account/plndr-cp-lock");
    assert_eq!(lease(&set, None), "set/plndr-cp-lock");
}

#[test]
fn the_balancer_is_discovered_on_the_virtual_address_with_a_port_of_its_own() {
    let config = built(&[
        ("address", "10.0.0.40"),
        ("lb_enable", "true"),
        ("lb_port", "8443"),
        ("backend_health_check_interval", "7"),
    ]);
    let balancer = config.balancer.unwrap();
    assert_eq!(balancer.discovered, BTreeMap::from([("apiserver".to_owned(), 6443)]));
    let frontend = &balancer.config.frontends[0];
    assert!(matches!(&frontend.listen, lb::Listen::Addresses { ips, port: 8443 } if ips.len() == 1));
    assert_eq!(frontend.check.interval, std::time::Duration::from_secs(7));
    assert!(config.health_check.is_none());
}

#[test]
fn with_the_apiservers_port_the_balancer_shares_it_where_the_kernel_can_redirect() {
    let settings = Settings::gather(&Flags::default(), &base());
    assert!(settings.shares_port());

    let (config, warnings) = settings.build(&lookups()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let listen = &config.balancer.unwrap().config.frontends[0].listen;
    assert!(
        matches!(listen, lb::Listen::Redirected { ips, port: 6443, own: 16443 } if ips.len() == 2),
        "{listen:?}"
    );

    let reason = Some("this kernel has no nf_tables".to_owned());
    let (config, warnings) = settings.build(&Lookups { no_redirect: reason, ..lookups() }).unwrap();
    assert!(config.balancer.is_none() && config.health_check.is_some());
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    for words in ["the balancer stays off", "and this kernel has no nf_tables"] {
        assert!(warning.message.contains(words), "{}", warning.message);
    }
    assert!(warning.help.contains("`lb_port`"), "{}", warning.help);

    let mut apart = base();
    apart.extend(environment(&[("lb_port", "8443")]));
    assert!(!Settings::gather(&Flags::default(), &apart).shares_port());
}

#[test]
fn a_single_node_counts_only_where_no_election_by_lease_is_asked_for() {
    let alone = built(&[("address", "10.0.0.40"), ("vip_singlenode", "true")]);
    assert!(matches!(&alone.vips[0].election, Election::Peers(election) if election.peers.is_empty()));
    let elected =
        built(&[("address", "10.0.0.40"), ("vip_singlenode", "true"), ("vip_leaderelection", "true")]);
    assert_eq!(election(&elected).me.as_str(), "n1");
}

#[test]
fn the_deprecated_name_of_the_address_still_works() {
    assert_eq!(addresses(&built(&[("vip_address", "10.0.0.41"), ("vip_cidr", "24")])), ["10.0.0.41/24"]);
}

#[test]
fn an_instance_has_a_socket_and_a_memory_of_its_own() {
    let config = built(&[("address", "10.0.0.40"), ("instance_name", "second")]);
    assert_eq!(config.socket.display().to_string(), "/run/vipd/vipd-second.sock");
    let memory = election(&config).access.memory.clone().unwrap();
    assert_eq!(memory.display().to_string(), "/var/lib/vipd/control-plane-second.json");
}

#[test]
fn the_scale_of_log_levels_is_that_of_slog_and_the_older_one_is_told() {
    for (number, level) in [("-8", "trace"), ("-4", "debug"), ("0", "info"), ("4", "warn"), ("8", "error")] {
        let settings = Settings::gather(&Flags::default(), &environment(&[("vip_loglevel", number)]));
        assert_eq!(settings.log_level(), level, "{number}");
    }
    let mut all = base();
    all.insert("vip_loglevel".to_owned(), "5".to_owned());
    let found = findings(&Flags::default(), &all);
    assert!(
        found.iter().any(|finding| finding.message.contains("before kube-vip 0.8.10 it was debug")),
        "{found:?}"
    );
}

#[test]
fn metrics_can_be_switched_off_by_the_flag_alone() {
    let metrics = |flags: &Flags, pairs: &[(&str, &str)]| {
        fill::fill(&Settings::gather(flags, &environment(pairs)), &Lookups::default()).file.metrics
    };
    assert_eq!(metrics(&Flags::default(), &[]).as_deref(), Some(":2112"));
    assert_eq!(metrics(&flags(&["--prometheusHTTPServer="]), &[]), None);
    assert_eq!(metrics(&Flags::default(), &[("prometheus_server", "")]).as_deref(), Some(":2112"));
}

/// The environment of a manifest as the container sees it: of a name that stands there twice, the later value.
fn of_manifest(text: &str) -> BTreeMap<String, String> {
    let pod: Pod = serde_yaml::from_str(text).unwrap();
    let container = pod.spec.unwrap().containers.remove(0);
    assert_eq!(container.args.unwrap(), ["manager"]);
    let variables = container.env.unwrap().into_iter();
    variables.map(|variable| (variable.name, variable.value.unwrap_or_else(|| "n1".to_owned()))).collect()
}

#[test]
fn a_manifest_of_1_2_means_what_it_meant_there() {
    let text = include_str!("../../../tests/kube_vip/manifests/generated-1.2.yaml");
    let settings = Settings::gather(&Flags::default(), &of_manifest(text));
    let (config, warnings) = settings.build(&Lookups::default()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(addresses(&config), ["192.168.0.40/32", "fd00::40/128"]);
    let vip = &config.vips[0];
    assert_eq!(vip.interface, crate::config::Interface::Named("ens18".to_owned()));
    assert_eq!(election(&config).name, "plndr-cp-lock");
    // Of the name that stands there twice, the first value may be the one that counts.
    let mut first = of_manifest(text);
    first.insert("vip_loseleadership".to_owned(), "true".to_owned());
    assert!(findings(&Flags::default(), &first).is_empty());
}

#[test]
fn a_manifest_with_old_names_means_what_it_meant_there() {
    let text = include_str!("../../../tests/kube_vip/manifests/with-old-names-0.6.yaml");
    let mut all = of_manifest(text);
    all.insert("vip_nodename".to_owned(), "n1".to_owned());
    let (config, warnings) = Settings::gather(&Flags::default(), &all).build(&Lookups::default()).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].origin, "environment lb_fwdmethod");
    assert_eq!(addresses(&config), ["10.1.2.40/24"]);
    let timing = election(&config).timing;
    assert_eq!(timing.lease_duration().as_secs(), 5);
    assert_eq!(timing.renew_deadline().as_secs(), 3);
    assert_eq!(timing.retry_period().as_secs(), 1);
    assert_eq!(config.balancer.unwrap().discovered.len(), 1);
}

#[test]
fn a_manifest_that_asks_for_services_is_refused_with_one_error() {
    let text = include_str!("../../../tests/kube_vip/manifests/with-services-1.0.yaml");
    let found =
        Settings::gather(&Flags::default(), &of_manifest(text)).build(&Lookups::default()).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].origin, "environment svc_enable");
}
