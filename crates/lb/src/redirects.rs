//! The ports that the kernel leads to the balancer, as frontends come, change and go.

use std::sync::Arc;

use crate::Error;
use crate::change::Part;
use crate::config::Listen;
use crate::frontend::Shared;
use crate::redirect::{Redirect, Table};

/// The tables in the kernel.
#[derive(Debug, Default)]
pub(crate) struct Redirects(Vec<Held>);

/// One table.
#[derive(Debug)]
struct Held {
    redirect: Redirect,
    /// New connections are led to the balancer. One that isn't open stays for the sake of those that were.
    open: bool,
    shared: Arc<Shared>,
}

/// A table that is wanted.
struct Wanted {
    table: Table,
    port: u16,
    shared: Arc<Shared>,
}

impl Wanted {
    fn error(&self, source: crate::redirect::Error) -> Error {
        Error::Redirect { frontend: self.shared.name.clone(), port: self.port, source }
    }
}

impl Redirects {
    /// Leads to these frontends what comes for their ports, and nothing new to any other. Connections that were led there go on.
    ///
    /// # Errors
    /// The kernel refuses one. Everything is as before then.
    pub(crate) fn lead(&mut self, parts: &[Part]) -> Result<(), Error> {
        let known = self.0.len();
        // What is to be said to the kernel again, in this order, if a later one is refused.
        let mut undo: Vec<(usize, Table)> = Vec::new();
        let wanted: Vec<Wanted> = parts.iter().filter_map(wanted).collect();
        for wanted in &wanted {
            let held =
                self.0.iter_mut().enumerate().find(|(_, held)| held.redirect.is_named_as(&wanted.table));
            let led = match held {
                Some((_, held)) if held.open && *held.redirect.table() == wanted.table => Ok(()),
                Some((place, held)) => held.redirect.replace(wanted.table.clone()).map(|before| {
                    undo.push((place, before));
                }),
                None => Redirect::install(wanted.table.clone()).map(|redirect| {
                    tracing::info!(
                        frontend = wanted.shared.name,
                        port = wanted.port,
                        table = redirect.name(),
                        "the virtual IP's port is redirected to the balancer"
                    );
                    self.0.push(Held { redirect, open: true, shared: Arc::clone(&wanted.shared) });
                }),
            };
            if let Err(source) = led {
                self.0.truncate(known);
                undo.into_iter().rev().for_each(|(place, before)| self.0[place].restore(before));
                return Err(wanted.error(source));
            }
        }
        for held in &mut self.0 {
            match wanted.iter().find(|wanted| held.redirect.is_named_as(&wanted.table)) {
                Some(wanted) => {
                    held.shared = Arc::clone(&wanted.shared);
                    held.open = true;
                }
                None if held.open => held.close(),
                None => {}
            }
        }
        Ok(())
    }

    /// Leads no further connection to the balancer; those that it has go on.
    pub(crate) fn close(&mut self) {
        self.0.iter_mut().filter(|held| held.open).for_each(Held::close);
    }

    /// Takes away the tables that lead nowhere any more and whose frontends have no connections.
    pub(crate) fn forget_vacant(&mut self) {
        self.0.retain(|held| held.open || held.shared.connections() > 0);
    }
}

impl Held {
    fn close(&mut self) {
        self.redirect.close();
        self.open = false;
    }

    /// Has the table be as it was before a change that failed.
    fn restore(&mut self, before: Table) {
        let name = self.shared.name.clone();
        if let Err(error) = self.redirect.replace(before) {
            tracing::error!(frontend = name, %error, "failed to redirect its port as before");
        } else if !self.open {
            self.redirect.close();
        }
    }
}

fn wanted(part: &Part) -> Option<Wanted> {
    let Listen::Redirected { port, .. } = part.station.listen else { return None };
    let table = Table::new(port, part.station.at.clone());
    Some(Wanted { table, port, shared: Arc::clone(&part.station.shared) })
}
