//! The rules of what members tell each other of clients.

use super::table::Mutation;

#[rustfmt::skip]
pub(crate) const MUTATIONS: &[Mutation] = &[
    Mutation {
        rule: "clients: only the leader is believed",
        file: "member.rs",
        find: "if self.leader(now).as_ref() == Some(&process.node) {",
        replace: "if self.leader(now).is_some() {",
        caught_by: "clients::only_the_leader_is_believed_about_clients",
    },
    Mutation {
        rule: "clients: what a leader told is forgotten when another leads",
        file: "member.rs",
        find: "self.hearsay.follow(&leader);",
        replace: "let _ = leader;",
        caught_by: "clients::what_a_leader_told_is_forgotten_when_another_leads",
    },
    Mutation {
        rule: "clients: only who leads inherits",
        file: "member.rs",
        find: "self.election.lease_end(now).map(|_| self.hearsay.inherit())",
        replace: "Some(now).map(|_| self.hearsay.inherit())",
        caught_by: "clients::a_successor_inherits_the_clients_of_a_leader_that_died",
    },
    Mutation {
        rule: "clients: the election goes first",
        file: "member.rs",
        find: "        while let Some(transmit) = self.election.poll_transmit() {",
        replace: "        if let Some(to) = self.poll_of_clients(now, out) {\n            return Some(to);\n        }\n        while let Some(transmit) = self.election.poll_transmit() {",
        caught_by: "clients::datagrams_of_the_election_leave_before_those_of_clients",
    },
    Mutation {
        rule: "clients: an earlier release is told nothing",
        file: "exchange.rs",
        find: "link.session.theirs().filter(|_| link.hears.clients)",
        replace: "link.session.theirs()",
        caught_by: "clients::a_member_of_an_earlier_release_takes_part_and_is_told_nothing_beside_the_election",
    },
    Mutation {
        rule: "notes: an earlier release is told nothing",
        file: "exchange.rs",
        find: "link.session.theirs().filter(|_| link.hears.notes)",
        replace: "link.session.theirs()",
        caught_by: "clients::a_member_of_an_earlier_release_takes_part_and_is_told_nothing_beside_the_election",
    },
];
