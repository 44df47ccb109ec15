//! Does a rule match a packet, and what does it do then?

use std::collections::BTreeMap;

use super::packet::{IPV4, Packet, Part};
use super::{Verdict, attributes, find, number, text};

/// Whether a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matches {
    Yes,
    No,
    /// By what can't be seen here.
    Perhaps,
}

/// What the expressions of a rule have loaded; what isn't there is not known.
type Registers = BTreeMap<u32, Vec<u8>>;

/// Goes through the expressions of a rule.
pub(super) fn judge(rule: &[u8], packet: &Packet) -> (Matches, Option<Verdict>) {
    let (mut matches, mut verdict) = (Matches::Yes, None);
    let mut registers = Registers::new();
    for (_, expression) in attributes(rule) {
        let name = text(expression, 1).unwrap_or_default();
        let data = find(expression, 2).unwrap_or_default();
        let holds = match name.as_str() {
            "meta" => loaded(&mut registers, number(data, 1), about(packet, number(data, 2))),
            "payload" => loaded(&mut registers, number(data, 1), header(packet, data)),
            "ct" => loaded(&mut registers, number(data, 1), connection(number(data, 2))),
            "bitwise" => {
                let kept = masked(&registers, data);
                loaded(&mut registers, number(data, 2), kept)
            }
            "cmp" => compared(&registers, data),
            "immediate" => {
                match find(data, 2).and_then(|value| find(value, 2)) {
                    Some(found) => verdict = decided(found),
                    // A value for a later expression.
                    None => registers.clear(),
                }
                Some(true)
            }
            "reject" => {
                verdict = Some(Verdict::Drop);
                Some(true)
            }
            "counter" | "log" | "notrack" => Some(true),
            // By a map, the verdict too.
            "lookup" if number(data, 3) == Some(VERDICT_REGISTER) => {
                verdict = Some(Verdict::Unknown);
                None
            }
            // The verdict of another program's extension.
            "target" | "queue" | "tproxy" | "synproxy" => {
                verdict = Some(Verdict::Unknown);
                None
            }
            _ => {
                registers.clear();
                None
            }
        };
        match holds {
            Some(true) => {}
            Some(false) => return (Matches::No, None),
            None => matches = Matches::Perhaps,
        }
    }
    (matches, verdict)
}

/// Puts what is known into a register. Loading by itself decides nothing.
fn loaded(registers: &mut Registers, register: Option<u32>, value: Option<Vec<u8>>) -> Option<bool> {
    match (register, value) {
        (Some(register), Some(value)) => registers.insert(register, value),
        (Some(register), None) => registers.remove(&register),
        // It sets something of the packet.
        (None, _) => None,
    };
    Some(true)
}

/// `meta`: what is known about the packet beside its bytes.
fn about(packet: &Packet, key: Option<u32>) -> Option<Vec<u8>> {
    const PROTOCOL: u32 = 1;
    const INCOMING_NAME: u32 = 6;
    const FAMILY: u32 = 15;
    const TRANSPORT: u32 = 16;
    const NAME_LENGTH: usize = 16;
    match key? {
        PROTOCOL => {
            let kind: u16 = if packet.protocol_family() == IPV4 { 0x0800 } else { 0x86dd };
            Some(kind.to_be_bytes().to_vec())
        }
        INCOMING_NAME => {
            let mut name = packet.comes_by.clone()?.into_bytes();
            name.resize(NAME_LENGTH, 0);
            Some(name)
        }
        FAMILY => Some(vec![packet.protocol_family()]),
        TRANSPORT => Some(vec![packet.transport as u8]),
        _ => None,
    }
}

/// `payload`: bytes of a header.
fn header(packet: &Packet, data: &[u8]) -> Option<Vec<u8>> {
    let part = match number(data, 2)? {
        1 => Part::Network,
        2 => Part::Transport,
        _ => return None,
    };
    let size = |kind| usize::try_from(number(data, kind)?).ok();
    packet.bytes(part, size(3)?, size(4)?)
}

/// `ct`: it is new, and nothing else is known of it.
fn connection(key: Option<u32>) -> Option<Vec<u8>> {
    const STATE: u32 = 0;
    const NEW: u32 = 8;
    (key? == STATE).then(|| NEW.to_ne_bytes().to_vec())
}

/// `bitwise`: some bits of a register, others turned.
fn masked(registers: &Registers, data: &[u8]) -> Option<Vec<u8>> {
    const MASK_AND_XOR: u32 = 0;
    if number(data, 6).unwrap_or(MASK_AND_XOR) != MASK_AND_XOR {
        return None;
    }
    let value = registers.get(&number(data, 1)?)?;
    let (mask, turned) = (find(find(data, 4)?, 1)?, find(find(data, 5)?, 1)?);
    Some(value.iter().zip(mask).zip(turned).map(|((value, mask), turned)| value & mask ^ turned).collect())
}

/// `cmp`: whether a register begins with a value, or how the two follow each other.
fn compared(registers: &Registers, data: &[u8]) -> Option<bool> {
    let value = registers.get(&number(data, 1)?)?;
    let other = find(find(data, 3)?, 1)?;
    let order = value.get(..other.len())?.cmp(other);
    match number(data, 2)? {
        0 => Some(order.is_eq()),
        1 => Some(order.is_ne()),
        2 => Some(order.is_lt()),
        3 => Some(order.is_le()),
        4 => Some(order.is_gt()),
        5 => Some(order.is_ge()),
        _ => None,
    }
}

/// What is done, from the verdict's own attributes.
fn decided(verdict: &[u8]) -> Option<Verdict> {
    let code = number(verdict, 1)?.cast_signed();
    let chain = || text(verdict, 2).unwrap_or_default();
    match code {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -1 => None,
        -3 => Some(Verdict::Jump(chain())),
        -4 => Some(Verdict::Goto(chain())),
        -5 => Some(Verdict::Return),
        _ => Some(Verdict::Unknown),
    }
}

/// `NFT_REG_VERDICT`
const VERDICT_REGISTER: u32 = 0;
