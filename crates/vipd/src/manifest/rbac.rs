//! The ServiceAccount of `--inCluster` and its rights: those that vipd uses, and no others. kube-vip has all of them too but for the one to
//! write Events.

use anyhow::anyhow;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use leader::kubernetes::EVENT_NAMESPACE;

use super::pod::{NAME, namespace};
use super::{Refusal, yaml};
use crate::cli;
use crate::config::is_label;
use crate::config::kube_vip::Settings;
use crate::config::kube_vip::table::Key;
use crate::tell;

/// Names of the cluster-wide forms.
const CLUSTER_ROLE: &str = "system:vipd-role";
/// The binding's.
const CLUSTER_BINDING: &str = "system:vipd-binding";
/// The Role for Events and its binding, which are in another namespace than the rest.
const EVENTS_ROLE: &str = "vipd-events";
/// The API group of roles.
const GROUP: &str = "rbac.authorization.k8s.io";

/// Five documents: account, role and binding, and again role and binding for Events.
pub(super) fn rbac(settings: &Settings, options: &cli::Rbac) -> Result<String, Refusal> {
    let namespace = namespace(settings);
    if !is_label(&namespace) {
        return Err(anyhow!("`--namespace {namespace}` is not the name of a namespace").into());
    }
    let here = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.clone()),
        ..ObjectMeta::default()
    };
    let everywhere = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    // A Role can be bound by a RoleBinding only.
    let bound_here = options.role || options.rolebinding;
    let labels = settings.is_on(Key::NodeLabel);
    if bound_here {
        tell(
            "warning: nodes are no part of a namespace, so these rights do not let vipd discover the control-plane nodes: give it the other apiservers, or use the cluster-wide forms",
        );
        if labels {
            tell("warning: nor do they let vipd label nodes (`--enableNodeLabeling`)");
        }
    }
    let account = yaml(&ServiceAccount { metadata: here(NAME), ..ServiceAccount::default() })?;
    let role = if options.role {
        yaml(&Role { metadata: here(NAME), rules: Some(vec![leases()]) })?
    } else {
        let rules = Some(vec![leases(), nodes(labels)]);
        yaml(&ClusterRole { metadata: everywhere(CLUSTER_ROLE), rules, aggregation_rule: None })?
    };
    let role_ref = if options.role {
        RoleRef { api_group: Some(GROUP.to_owned()), kind: "Role".to_owned(), name: NAME.to_owned() }
    } else {
        RoleRef {
            api_group: Some(GROUP.to_owned()),
            kind: "ClusterRole".to_owned(),
            name: CLUSTER_ROLE.to_owned(),
        }
    };
    let subjects = Some(vec![Subject {
        kind: "ServiceAccount".to_owned(),
        name: NAME.to_owned(),
        namespace: Some(namespace.clone()),
        api_group: None,
    }]);
    let [events, events_binding] = events(subjects.clone())?;
    let binding = if bound_here {
        yaml(&RoleBinding { metadata: here(NAME), role_ref, subjects })?
    } else {
        yaml(&ClusterRoleBinding { metadata: everywhere(CLUSTER_BINDING), role_ref, subjects })?
    };
    Ok([account, role, binding, events, events_binding].join("---\n"))
}

/// The Lease of the election.
fn leases() -> PolicyRule {
    rule("coordination.k8s.io", "leases", &["get", "list", "watch", "create", "update"])
}

/// The control-plane nodes, whose apiservers are reached and balanced; and, where it is asked for, the label of the one that has the
/// address. The API knows no right to a label alone: whoever may patch a node may change its other labels, taints and annotations, too.
fn nodes(labels: bool) -> PolicyRule {
    let verbs: &[&str] = if labels { &["list", "watch", "patch"] } else { &["list", "watch"] };
    rule("", "nodes", verbs)
}

/// Events of the moves, in the one namespace where those about nodes are: to write new ones, and neither to read nor to change any.
fn events(subjects: Option<Vec<Subject>>) -> anyhow::Result<[String; 2]> {
    let there = || ObjectMeta {
        name: Some(EVENTS_ROLE.to_owned()),
        namespace: Some(EVENT_NAMESPACE.to_owned()),
        ..ObjectMeta::default()
    };
    let role_ref =
        RoleRef { api_group: Some(GROUP.to_owned()), kind: "Role".to_owned(), name: EVENTS_ROLE.to_owned() };
    let rules = Some(vec![rule("events.k8s.io", "events", &["create"])]);
    Ok([
        yaml(&Role { metadata: there(), rules })?,
        yaml(&RoleBinding { metadata: there(), role_ref, subjects })?,
    ])
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
