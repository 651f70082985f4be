//! A directory beside what the replica lists of it: name by name, in the order of both.

use sys::directory::{Name, Names};

use crate::error::Result;
use crate::tree::entry::{Entry, EntryPath};
use crate::tree::replica::Cursor;

/// Who has a name.
pub enum Pair<'a> {
    /// The directory alone.
    Present(Name<'a>),
    /// The replica alone.
    Known(Entry),
    /// Both.
    Both(Name<'a>, Entry),
}

/// Goes through `names`, which are sorted, and through the children that the replica lists of `path`.
///
/// # Errors
/// The replica is damaged, or what `visit` gives.
pub fn side_by_side(
    names: &Names,
    cursor: &mut Cursor,
    path: &EntryPath,
    visit: &mut dyn FnMut(Pair<'_>) -> Result<()>,
) -> Result<()> {
    let mut next = 0;
    cursor.children(path, &mut |known: Entry| {
        let known_name = known
            .path
            .split()
            .map(|(_, name)| name.to_vec())
            .unwrap_or_default();
        while next < names.len() && names.get(next).bytes() < known_name.as_slice() {
            visit(Pair::Present(names.get(next)))?;
            next += 1;
        }
        if next < names.len() && names.get(next).bytes() == known_name.as_slice() {
            next += 1;
            visit(Pair::Both(names.get(next - 1), known))
        } else {
            visit(Pair::Known(known))
        }
    })?;
    (next..names.len()).try_for_each(|index| visit(Pair::Present(names.get(index))))
}
