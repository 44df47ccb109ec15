//! What the API permits, and what of a cluster touches the address.

use std::fs;

use super::apiserver::{self, Attitude};
use super::bench::Bench;

/// Names that the apiservers of kubeadm have, with the virtual address and without.
const COMPLETE: &[&str] = &["kubernetes", "master-1", "10.96.0.1", "10.0.0.1", "10.0.0.9"];
const INCOMPLETE: &[&str] = &["kubernetes", "master-1", "10.96.0.1", "10.0.0.1"];

/// A host of a cluster whose Lease decides.
fn config(bench: &Bench) -> String {
    format!(
        "election: kubernetes\nnode: master-1\nvip: 10.0.0.9\ninterface: eth0\nsocket: {}\n\
         kubernetes: {{kubeconfig: {}, server: \"{}\"}}\n",
        bench.folder.join("vipd.sock").display(),
        bench.folder.join("admin.conf").display(),
        apiserver::ADDRESS
    )
}

/// What a host that belongs to no cluster yet isn't asked about.
const UNSEEN: (&str, &str) = ("certificate", "warning");

#[test]
fn before_a_cluster_is_made_nothing_is_an_error() {
    let Some(bench) = Bench::new("credentials") else { return };
    let findings = bench.check(&config(&bench));
    findings.are(&[("credentials", "warning"), UNSEEN]);
    findings.tell(
        "credentials",
        "no kubeconfig can be read",
        "before `kubeadm init` that is as it should be",
    );
    findings.tell("certificate", "not looked at: ", "before `kubeadm init`");

    fs::write(bench.folder.join("admin.conf"), "apiVersion: v1\nkind: [\n").unwrap();
    let findings = bench.check(&config(&bench));
    findings.are(&[("credentials", "warning"), UNSEEN]);
    findings.tell("credentials", "can't be used", "kubeadm init phase kubeconfig admin");
}

#[test]
fn an_api_that_does_not_answer() {
    let Some(bench) = Bench::new("api") else { return };
    apiserver::identity(&bench.folder, COMPLETE);
    let findings = bench.check(&config(&bench));
    findings.are(&[("api", "warning"), UNSEEN]);
    findings.tell(
        "api",
        "not looked at: the API: no apiserver answers (10.0.0.1:6443: ",
        "before `kubeadm init`",
    );
}

#[test]
fn rights_that_are_missing_are_named() {
    let Some(bench) = Bench::new("rights") else { return };
    let identity = apiserver::identity(&bench.folder, COMPLETE);
    apiserver::serve(&bench.here, identity, Attitude::Denies("update"));
    let findings = bench.check(&config(&bench));
    findings.are(&[("rights", "warning")]);
    findings.tell(
        "rights",
        "may not update leases in kube-system",
        "`vipd manifest rbac | kubectl apply -f -`",
    );
}

#[test]
fn rights_that_only_telling_takes_are_named_apart() {
    let Some(bench) = Bench::new("telling") else { return };
    let identity = apiserver::identity(&bench.folder, COMPLETE);
    apiserver::serve(&bench.here, identity, Attitude::Denies("patch"));
    bench.check(&config(&bench)).are(&[]);
    let labelling = config(&bench).replace("kubernetes: {", "kubernetes: {nodeLabel: true, ");
    let findings = bench.check(&labelling);
    findings.are(&[("node-label", "warning")]);
    findings.tell("node-label", "may not patch nodes", "`vipd manifest rbac --enableNodeLabeling`");
}

#[test]
fn where_peers_decide_the_rights_are_those_to_tell_of_moves() {
    let Some(bench) = Bench::new("peers-telling") else { return };
    let identity = apiserver::identity(&bench.folder, COMPLETE);
    apiserver::serve(&bench.here, identity, Attitude::Denies("create"));
    let kubernetes = format!(
        "kubernetes: {{events: true, kubeconfig: {}, server: \"{}\"}}\n",
        bench.folder.join("admin.conf").display(),
        apiserver::ADDRESS
    );
    let findings = bench.check(&format!("{}vip: 10.0.0.9\ninterface: eth0\n{kubernetes}", bench.members()));
    findings.are(&[("events", "warning")]);
    findings.tell("events", "may not create events in default", "`vipd manifest rbac`");
    assert!(!findings.all().any(|finding| finding["id"] == "rights"), "{findings}");
}

#[test]
fn with_all_rights_and_names_a_member_of_a_cluster_has_nothing_to_find() {
    let Some(bench) = Bench::new("permitted") else { return };
    let identity = apiserver::identity(&bench.folder, COMPLETE);
    apiserver::serve(&bench.here, identity, Attitude::Permits);
    let findings = bench.check(&config(&bench));
    findings.are(&[]);
    for id in ["credentials", "api", "rights", "events", "certificate"] {
        assert!(findings.all().any(|finding| finding["id"] == id), "nothing is said of {id}: {findings}");
    }
}

#[test]
fn credentials_that_the_api_does_not_know() {
    let Some(bench) = Bench::new("refused") else { return };
    let identity = apiserver::identity(&bench.folder, COMPLETE);
    apiserver::serve(&bench.here, identity, Attitude::Refuses);
    let findings = bench.check(&config(&bench));
    findings.are(&[("rights", "warning")]);
    findings.tell("rights", "not looked at: ", "vipd manifest rbac");
    findings.tell("rights", "401, the server doesn't know these credentials", "vipd manifest rbac");
}

#[test]
fn a_certificate_that_is_not_for_the_virtual_address() {
    let Some(bench) = Bench::new("certificate") else { return };
    let identity = apiserver::identity(&bench.folder, INCOMPLETE);
    apiserver::serve(&bench.here, identity, Attitude::Permits);
    let findings = bench.check(&config(&bench));
    findings.are(&[("certificate", "warning")]);
    findings.tell(
        "certificate",
        "of 10.0.0.1:6443 is not for 10.0.0.9, but for ",
        "add 10.0.0.9 to `apiServer.certSANs`",
    );
    findings.tell("certificate", "10.96.0.1", "`kubeadm init phase certs apiserver --config FILE`");

    // Where peers decide, the balancer's backends are asked.
    let balancer = bench.balancer("port: 8443").replace("10.0.0.2, port: 6443", "10.0.0.1, port: 6443");
    let config = format!("{}vip: 10.0.0.9\ninterface: eth0\n{balancer}", bench.members());
    let findings = bench.check(&config);
    findings.are(&[("certificate", "warning")]);
}

#[test]
fn a_certificate_that_is_not_for_the_name_of_the_endpoint() {
    let Some(bench) = Bench::new("endpoint-certificate") else { return };
    let identity = apiserver::identity(&bench.folder, COMPLETE);
    apiserver::serve(&bench.here, identity, Attitude::Permits);
    // The name that the kubeconfig has.
    apiserver::kubeconfig(&bench.folder, "https://api.example.org:6443");
    let findings = bench.check(&config(&bench));
    findings.are(&[("certificate", "warning")]);
    findings.tell("certificate", "is not for api.example.org", "add api.example.org to `apiServer.certSANs`");
}

#[test]
fn a_name_that_leads_elsewhere() {
    let Some(bench) = Bench::new("endpoint") else { return };
    let findings = bench.check_by(&[], &bench.config(), &["--endpoint", "localhost"]);
    findings.are(&[("endpoint", "warning")]);
    findings.tell("endpoint", "localhost is ", "say 10.0.0.9");
    let findings = bench.check_by(&[], &bench.config(), &["--endpoint", "api.invalid"]);
    findings.are(&[("endpoint", "warning")]);
    findings.tell("endpoint", "api.invalid has no address", "/etc/hosts");
}

#[test]
fn kube_proxy_in_ipvs_mode_without_strict_arp() {
    let Some(bench) = Bench::new("kube-proxy") else { return };
    bench.here.ip("link add kube-ipvs0 type veth peer name other");
    let findings = bench.check(&bench.config());
    findings.are(&[("kube-proxy", "warning")]);
    findings.tell("kube-proxy", "IPVS mode without strictARP", "`ipvs.strictARP: true`");
    bench.set("net/ipv4/conf/all/arp_ignore", "1");
    bench.check(&bench.config()).are(&[]);

    bench.here.ip("address add 10.0.0.9/32 dev kube-ipvs0");
    let findings = bench.check(&bench.config());
    findings.are(&[("address-foreign", "error")]);
    findings.tell("address-foreign", "10.0.0.9 is on kube-ipvs0", "a Service has it");
}

#[test]
fn a_backend_whose_name_has_no_address() {
    let Some(bench) = Bench::new("backend-names") else { return };
    let findings = bench.check(
        &bench.config().replace("address: 10.0.0.2, port: 6443", "address: master-2.invalid, port: 6443"),
    );
    findings.are(&[("backend-names", "warning")]);
    findings.tell("backend-names", "master-2.invalid has no address", "/etc/resolv.conf");
}
