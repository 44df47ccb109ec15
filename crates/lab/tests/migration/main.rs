//! The guides of docs/ for those who come from something else, carried out: their own commands, in their order, on nodes that run what is
//! replaced, while a client asks all the time.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one; and keepalived, haproxy and nginx.

#[path = "../enclosed/mod.rs"]
mod enclosed;
mod guide;
#[path = "../hosts/mod.rs"]
mod hosts;
mod keepalived;
mod kube_vip;
mod nginx_proxy;

fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").ok();
}
