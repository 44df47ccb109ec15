//! The ServiceAccount of `--inCluster` and its rights: those that vipd uses, all of which kube-vip has too.

use anyhow::anyhow;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod::{NAME, namespace};
use super::{Refusal, yaml};
use crate::cli;
use crate::config::is_label;
use crate::config::kube_vip::Settings;
use crate::tell;

/// Names of the cluster-wide forms.
const CLUSTER_ROLE: &str = "system:vipd-role";
/// The binding's.
const CLUSTER_BINDING: &str = "system:vipd-binding";
/// The API group of roles.
const GROUP: &str = "rbac.authorization.k8s.io";

/// Three documents: account, role and binding.
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
    if bound_here {
        tell(
            "warning: nodes are no part of a namespace, so these rights do not let vipd discover the control-plane nodes: give it the other apiservers, or use the cluster-wide forms",
        );
    }
    let account = yaml(&ServiceAccount { metadata: here(NAME), ..ServiceAccount::default() })?;
    let role = if options.role {
        yaml(&Role { metadata: here(NAME), rules: Some(vec![leases()]) })?
    } else {
        let rules = Some(vec![leases(), nodes()]);
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
    let binding = if bound_here {
        yaml(&RoleBinding { metadata: here(NAME), role_ref, subjects })?
    } else {
        yaml(&ClusterRoleBinding { metadata: everywhere(CLUSTER_BINDING), role_ref, subjects })?
    };
    Ok([account, role, binding].join("---\n"))
}

/// The Lease of the election.
fn leases() -> PolicyRule {
    rule("coordination.k8s.io", "leases", &["get", "list", "watch", "create", "update"])
}

/// The control-plane nodes, whose apiservers are reached and balanced.
fn nodes() -> PolicyRule {
    rule("", "nodes", &["list", "watch"])
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
