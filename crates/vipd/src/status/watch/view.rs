//! What a person looks at and what their keys mean.
//!
//! ```text
//!             s: step down      d, e: drain, enable the chosen backend      /: filter
//!  Looking ──────────▶ Asking(order) ── y ──▶ the order    Looking ──▶ Typing ── ⏎ ──▶ Looking
//!     ▲                    │ anything else                             │ Esc: all again
//!     └────────────────────┴──────────────────────────────────────────┘
//! ```

use crate::command::Order;
use crate::status::Snapshot;
use crate::status::show::{BACKEND, backend_line};

/// A filter has no more characters.
const FILTER_MAX: usize = 60;

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Character(char),
    Up,
    Down,
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C.
    Interrupt,
}

/// What follows from a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing but what is on the screen.
    Shown,
    /// This is to be done.
    Order(Order),
    /// The person has seen enough.
    Leave,
}

/// What the keys mean at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Looking,
    /// A filter is being typed.
    Typing,
    /// Whether that is really to be done.
    Asking(Order),
}

/// What a person looks at.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) mode: Mode,
    /// Backends, peers and moves are shown whose line has this in it.
    pub(super) filter: String,
    /// The chosen backend, of those that are shown.
    pub(super) chosen: usize,
    /// What came of the last order.
    pub(super) message: String,
}

impl View {
    pub(super) fn new() -> Self {
        Self { mode: Mode::Looking, filter: String::new(), chosen: 0, message: String::new() }
    }

    /// The backends that are shown, in the order of the screen.
    pub(super) fn backends(&self, snapshot: &Snapshot) -> Vec<String> {
        let all = snapshot.load_balancers.iter().flat_map(|frontend| {
            frontend.backends.iter().map(move |backend| (backend, backend_line(backend, frontend.forwarded)))
        });
        let shown = all.filter(|(_, line)| self.shows(&format!("{BACKEND}{line}")));
        shown.map(|(backend, _)| backend.address.clone()).collect()
    }

    /// Whether a line that can be left out is shown.
    pub(super) fn shows(&self, line: &str) -> bool {
        self.filter.is_empty() || line.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Takes a key, while this is on the screen; nothing is known of a vipd that doesn't answer.
    pub(super) fn press(&mut self, key: Key, snapshot: Option<&Snapshot>) -> Outcome {
        if key == Key::Interrupt {
            return Outcome::Leave;
        }
        match std::mem::replace(&mut self.mode, Mode::Looking) {
            Mode::Looking => self.look(key, snapshot),
            Mode::Typing => {
                self.type_in(key);
                Outcome::Shown
            }
            Mode::Asking(order) if key == Key::Character('y') => {
                self.message = "…".to_owned();
                Outcome::Order(order)
            }
            Mode::Asking(_) => {
                self.message = "nothing was done".to_owned();
                Outcome::Shown
            }
        }
    }

    fn look(&mut self, key: Key, snapshot: Option<&Snapshot>) -> Outcome {
        let backends = snapshot.map(|snapshot| self.backends(snapshot)).unwrap_or_default();
        // Some may have gone since.
        self.chosen = self.chosen.min(backends.len().saturating_sub(1));
        let chosen = backends.get(self.chosen).cloned();
        match key {
            Key::Character('q') => return Outcome::Leave,
            Key::Escape if self.filter.is_empty() => return Outcome::Leave,
            Key::Escape => self.filter.clear(),
            Key::Up | Key::Character('k') => self.chosen = self.chosen.saturating_sub(1),
            Key::Down | Key::Character('j') => {
                self.chosen = (self.chosen + 1).min(backends.len().saturating_sub(1));
            }
            Key::Character('/') => self.mode = Mode::Typing,
            Key::Character('s') => self.mode = Mode::Asking(Order::StepDown),
            Key::Character('d') => self.ask_of(chosen.map(Order::Drain)),
            Key::Character('e') => self.ask_of(chosen.map(Order::Enable)),
            Key::Character(_) | Key::Enter | Key::Backspace | Key::Interrupt => {}
        }
        Outcome::Shown
    }

    fn ask_of(&mut self, order: Option<Order>) {
        match order {
            Some(order) => self.mode = Mode::Asking(order),
            None => self.message = "there is no backend here".to_owned(),
        }
    }

    fn type_in(&mut self, key: Key) {
        self.mode = Mode::Typing;
        self.chosen = 0;
        match key {
            Key::Character(c) if self.filter.chars().count() < FILTER_MAX => self.filter.push(c),
            Key::Backspace => drop(self.filter.pop()),
            Key::Enter => self.mode = Mode::Looking,
            Key::Escape => {
                self.filter.clear();
                self.mode = Mode::Looking;
            }
            Key::Character(_) | Key::Up | Key::Down | Key::Interrupt => {}
        }
    }

    /// The last line of the screen: what the keys do, or what is asked.
    pub(super) fn footer(&self) -> String {
        match &self.mode {
            Mode::Looking => {
                let filter = if self.filter.is_empty() { "/ filter" } else { "Esc all" };
                format!("q quit   s step down   ↑↓ choose   d drain   e enable   {filter}")
            }
            Mode::Typing => format!("filter: {}▏  Enter keep   Esc all", self.filter),
            Mode::Asking(Order::StepDown) => {
                "hand the address to the best other node, now? y yes   any other key: no".to_owned()
            }
            Mode::Asking(Order::Drain(backend)) => {
                format!("give {backend} no new connections from this node? y yes   any other key: no")
            }
            Mode::Asking(Order::Enable(backend)) => {
                format!("give {backend} new connections again? y yes   any other key: no")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        serde_json::from_str(include_str!("../sample.json")).unwrap()
    }

    fn pressed(view: &mut View, keys: &[Key]) -> Outcome {
        let snapshot = snapshot();
        keys.iter().map(|key| view.press(*key, Some(&snapshot))).last().unwrap()
    }

    #[test]
    fn nothing_is_done_without_being_asked_for_twice() {
        let mut view = View::new();
        assert_eq!(pressed(&mut view, &[Key::Character('s'), Key::Character('n')]), Outcome::Shown);
        assert_eq!(view.message, "nothing was done");
        assert_eq!(pressed(&mut view, &[Key::Character('y')]), Outcome::Shown, "nobody has asked");
        let done = pressed(&mut view, &[Key::Character('s'), Key::Character('y')]);
        assert_eq!(done, Outcome::Order(Order::StepDown));
    }

    #[test]
    fn the_chosen_backend_is_the_one_that_is_drained() {
        let mut view = View::new();
        let done = pressed(&mut view, &[Key::Down, Key::Character('d'), Key::Character('y')]);
        assert_eq!(done, Outcome::Order(Order::Drain("10.0.0.164:6443".to_owned())));
        let done =
            pressed(&mut view, &[Key::Down, Key::Down, Key::Down, Key::Character('e'), Key::Character('y')]);
        assert_eq!(done, Outcome::Order(Order::Enable("10.0.0.165:6443".to_owned())), "the last is the last");
    }

    #[test]
    fn a_filter_decides_what_can_be_chosen_and_goes_by_escape() {
        let mut view = View::new();
        let typed: Vec<Key> = "/DEAD".chars().map(Key::Character).collect();
        pressed(&mut view, &typed);
        pressed(&mut view, &[Key::Enter]);
        assert_eq!(view.backends(&snapshot()), ["10.0.0.164:6443"]);
        let done = pressed(&mut view, &[Key::Character('d'), Key::Character('y')]);
        assert_eq!(done, Outcome::Order(Order::Drain("10.0.0.164:6443".to_owned())));
        assert_eq!(pressed(&mut view, &[Key::Escape]), Outcome::Shown);
        assert_eq!(view.backends(&snapshot()).len(), 3);
        assert_eq!(pressed(&mut view, &[Key::Escape]), Outcome::Leave);
    }

    #[test]
    fn keys_that_are_typed_mean_themselves() {
        let mut view = View::new();
        let outcome = pressed(&mut view, &[Key::Character('/'), Key::Character('q'), Key::Character('s')]);
        assert_eq!((outcome, view.filter.as_str()), (Outcome::Shown, "qs"));
        pressed(&mut view, &[Key::Backspace]);
        assert_eq!(view.filter, "q");
        assert_eq!(pressed(&mut view, &[Key::Interrupt]), Outcome::Leave);
    }

    #[test]
    fn what_is_asked_names_the_order_and_its_backend() {
        let asked = |keys: &[Key]| {
            let mut view = View::new();
            assert_eq!(pressed(&mut view, keys), Outcome::Shown);
            view.footer()
        };
        assert!(asked(&[Key::Character('s')]).contains("hand the address to the best other node"));
        assert!(asked(&[Key::Character('d')]).contains("give 10.0.0.163:6443 no new connections"));
        assert!(
            asked(&[Key::Down, Key::Character('e')]).contains("give 10.0.0.164:6443 new connections again")
        );
        assert!(asked(&[Key::Character('/'), Key::Character('x')]).contains("filter: x"));
        assert!(asked(&[Key::Up]).starts_with("q quit"));
    }

    #[test]
    fn escape_leaves_no_filter_behind_while_it_is_typed_and_q_ends_the_view() {
        let mut view = View::new();
        let typed = [Key::Character('/'), Key::Character('x'), Key::Up, Key::Escape];
        assert_eq!((pressed(&mut view, &typed), view.filter.as_str()), (Outcome::Shown, ""));
        assert_eq!(pressed(&mut view, &[Key::Character('q')]), Outcome::Leave);
    }

    #[test]
    fn without_a_vipd_there_is_no_backend_and_no_panic() {
        let mut view = View::new();
        for key in [Key::Down, Key::Up, Key::Character('d'), Key::Enter, Key::Character('x')] {
            assert_eq!(view.press(key, None), Outcome::Shown);
        }
        assert_eq!(view.message, "there is no backend here");
    }
}
