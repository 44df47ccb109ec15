//! Who leads? Election of one node among several.
