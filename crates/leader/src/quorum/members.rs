//! The members by number, and sets of votes.

use std::sync::Arc;

use crate::node::{MemberSet, NodeId};

use super::Config;

/// The members in the order of their names. A member's place in that order stands for it inside one machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Members {
    names: Arc<[NodeId]>,
    mine: usize,
    set: MemberSet,
    witnesses: Votes,
}

impl Members {
    /// Numbers the members of a checked configuration.
    pub(super) fn new(config: &Config) -> Self {
        let Config { me, members, witnesses, .. } = config;
        let names: Arc<[NodeId]> = members.iter().cloned().collect();
        let mine = names.binary_search(me).expect("the configuration was checked: this node is a member");
        let set = MemberSet::of(members).expect("the configuration was checked: few members, told apart");
        let mut marked = Votes::default();
        for (place, _) in names.iter().enumerate().filter(|(_, name)| witnesses.contains(name)) {
            marked.insert(place);
        }
        Self { names, mine, set, witnesses: marked }
    }

    /// Whether the member at this place is a witness by this node's configuration.
    pub(super) fn is_witness(&self, place: usize) -> bool {
        self.witnesses.contains(place)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// More than half of them.
    pub(super) fn majority(&self) -> usize {
        self.count() / 2 + 1
    }

    /// This node's place.
    pub(super) fn mine(&self) -> usize {
        self.mine
    }

    /// The place of another member; `None` for this node itself and for strangers.
    pub(super) fn place_of_other(&self, name: &NodeId) -> Option<usize> {
        self.names.binary_search(name).ok().filter(|place| *place != self.mine)
    }

    /// The name at a place.
    pub(super) fn name(&self, place: usize) -> &NodeId {
        &self.names[place]
    }

    /// The places of all others.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let mine = self.mine;
        (0..self.count()).filter(move |place| *place != mine)
    }

    /// The set as it travels.
    pub(super) fn set(&self) -> MemberSet {
        self.set
    }

    /// Whether any majority of the other set meets every majority of this one.
    ///
    /// They do when at most one member is in only one of the sets. Let the smaller have n members and the larger
    /// n + 1, so that the larger holds both majorities. Their sizes are ⌊n/2⌋ + 1 and ⌊(n + 1)/2⌋ + 1, and as
    /// ⌊n/2⌋ + ⌊(n + 1)/2⌋ = n they sum to n + 2. Two sets with n + 2 elements in all can't be disjoint among n + 1.
    ///
    /// That is a proof for two neighbouring sets. A third one in use at the same time can be two steps from the
    /// first, so a change has to reach all members before the next change begins.
    pub(super) fn meets(&self, other: &MemberSet) -> bool {
        self.set.difference(other) <= 1
    }
}

/// A set of voters. A voter that answers twice is in it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Votes(u16);

impl Votes {
    /// Adds the voter.
    pub(super) fn insert(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    /// Takes the voter out.
    pub(super) fn remove(&mut self, place: usize) {
        self.0 &= !(1 << place);
    }

    /// Whether the voter is in it.
    pub(super) fn contains(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }

    /// How many voters are in it.
    pub(super) fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    /// The proof above, by trying all pairs of majorities.
    #[test]
    fn majorities_of_sets_that_differ_by_one_member_meet() {
        for n in 1_u32..=9 {
            let (smaller, larger) = ((1_u16 << n) - 1, (1_u16 << (n + 1)) - 1);
            let majorities = |set: u16| {
                (0..=set).filter(move |votes| votes & !set == 0 && votes.count_ones() > set.count_ones() / 2)
            };
            for one in majorities(smaller) {
                assert!(majorities(larger).all(|other| one & other != 0), "{n}: {one:b}");
            }
        }
    }

    #[test]
    fn majorities_of_sets_that_differ_by_two_members_may_miss_each_other() {
        let (three, five) = (0b00011_u8, 0b11100_u8);
        assert!(three.count_ones() > 3 / 2 && five.count_ones() > 5 / 2 && three & five == 0);
    }
}
