//! Numbers of the attributes that messages of ours have.

/// Name of a table.
pub const TABLE_NAME: u16 = 1;
/// Its flags.
pub const TABLE_FLAGS: u16 = 2;
/// The table that a chain is in.
pub const CHAIN_TABLE: u16 = 1;
/// Name of a chain.
pub const CHAIN_NAME: u16 = 3;
/// What it is hooked to.
pub const CHAIN_HOOK: u16 = 4;
/// What kind of chain it is, such as `filter` or `nat`.
pub const CHAIN_TYPE: u16 = 7;
/// The table that a rule is in.
pub const RULE_TABLE: u16 = 1;
/// The chain that a rule is in.
pub const RULE_CHAIN: u16 = 2;
/// What the rule consists of.
pub const RULE_EXPRESSIONS: u16 = 4;
/// The table that a set is in.
pub const SET_TABLE: u16 = 1;
/// Name of a set.
pub const SET_NAME: u16 = 2;
/// What kind of set it is.
pub const SET_FLAGS: u16 = 3;
/// What its elements are, as a number that `nft` prints them by.
pub const SET_KEY_TYPE: u16 = 4;
/// How many bytes an element has.
pub const SET_KEY_LENGTH: u16 = 5;
/// What kind its values are, where it is a map.
pub const SET_VALUE_TYPE: u16 = 6;
/// How many bytes a value has.
pub const SET_VALUE_LENGTH: u16 = 7;
/// What is known of it beforehand, such as its size.
pub const SET_DESCRIPTION: u16 = 9;
/// A number that the set is known by within the batch.
pub const SET_ID: u16 = 10;
/// What `nft` wants to know when it prints the set.
pub const SET_USER_DATA: u16 = 13;
/// The table that an object is in.
pub const OBJECT_TABLE: u16 = 1;
/// Name of an object.
pub const OBJECT_NAME: u16 = 2;
/// What kind of object it is.
pub const OBJECT_TYPE: u16 = 3;
/// What the object says.
pub const OBJECT_DATA: u16 = 4;
/// The table that the set of these elements is in.
pub const ELEMENTS_TABLE: u16 = 1;
/// Their set.
pub const ELEMENTS_SET: u16 = 2;
/// The elements.
pub const ELEMENTS_LIST: u16 = 3;
/// The number of their set within the batch, where it has no name yet.
pub const ELEMENTS_SET_ID: u16 = 4;
