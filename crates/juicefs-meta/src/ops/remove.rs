//! What becomes of a node that loses a name: unlink, rmdir and a rename that replaces its target share it
//! (format: metadata.md §6.8–§6.10, §6.14).

use juicefs_core::{
    attr::{Attr, FileType, flags},
    ids::{Ino, Name},
    limits::MAX_NAME_BYTES,
    meta::{Freed, Removed},
};

use super::{
    Halt, Scope,
    account::{count_entry, count_gone, entry_stat, negative},
    need,
};
use crate::{
    opens::Hold,
    record::{DelFile, Edge, Key},
    txn::{AccountEffect, EdgeEffect, Effect, Effects, NodeEffect, ReadSet, SessionEffect, SliceEffect},
};

/// How a removal goes about it.
#[derive(Debug)]
pub(crate) struct Removal {
    /// The hourly directory that the node is to go to; `None` when there is no trash or it does not apply.
    pub(crate) trash: Option<Ino>,
    /// Knows which files are open here.
    pub(crate) opens: Hold,
    /// What goes is replaced under a name that is never missing: whoever found it there may still open it.
    pub(crate) keep: bool,
}

/// A name that goes. The entry itself is the caller's: it may be removed or point elsewhere from now on.
#[derive(Debug)]
pub(crate) struct Loss<'a> {
    pub(crate) parent: Ino,
    pub(crate) name: &'a Name,
    pub(crate) edge: Edge,
    /// `None` when the node is missing: a damaged volume, of which the dangling name can be removed.
    pub(crate) attr: Option<&'a Attr>,
}

impl Loss<'_> {
    /// Under which name the hourly directory keeps it.
    pub(crate) fn trash_name(&self) -> Name {
        let mut name = format!("{}-{}-", self.parent, self.edge.ino).into_bytes();
        name.extend_from_slice(self.name.as_bytes());
        name.truncate(MAX_NAME_BYTES);
        Name::from(name)
    }
}

/// The node of a non-directory loses a name: into the trash, or one link less, or gone, or kept for those who have it
/// open.
pub(crate) fn lose_file(
    read: &ReadSet,
    scope: &Scope,
    removal: &Removal,
    loss: &Loss<'_>,
    effects: &mut Effects,
) -> Result<Removed, Halt> {
    let ino = loss.edge.ino;
    let removed = Removed { ino: Some(ino), freed: None };
    count_entry(scope, effects, loss.parent, negative(entry_stat(loss.attr)));
    let Some(attr) = loss.attr else { return Ok(removed) };
    if let Some(trash) = trash_for(read, removal, loss, attr)? {
        into_trash(scope, loss, attr, trash, effects);
        return Ok(removed);
    }
    let mut left = attr.clone();
    left.nlink = attr.nlink.saturating_sub(1);
    left.ctime = scope.now;
    if left.nlink > 0 {
        effects.push(Effect::Node(ino, NodeEffect::Update(left)));
        if attr.parent == Ino(0) {
            effects.push(Effect::Node(ino, NodeEffect::AddParent(loss.parent, -1)));
        }
        return Ok(removed);
    }
    if removal.keep && attr.kind == FileType::Symlink {
        need(read, [Key::Symlink(ino)])?;
        if let Some(target) = read.symlink(ino) {
            removal.opens.keeps_target(ino, target.clone());
        }
    }
    let may_stay = attr.kind == FileType::File && scope.sid.0 != 0;
    let stays = || if removal.keep { removal.opens.keeps(ino) } else { removal.opens.finds_open(ino) };
    let freed = if may_stay && stays() {
        effects.push(Effect::Node(ino, NodeEffect::Update(left)));
        effects.push(Effect::Session(scope.sid, SessionEffect::Sustain(ino)));
        None
    } else {
        free_node(read, scope, ino, attr, effects)?
    };
    effects.push(Effect::Node(ino, NodeEffect::DeleteXattrs));
    if attr.parent == Ino(0) {
        effects.push(Effect::Node(ino, NodeEffect::DeleteParents));
    }
    Ok(Removed { freed, ..removed })
}

/// The node goes for good. Data that it may have is noted for deletion.
pub(crate) fn free_node(
    read: &ReadSet,
    scope: &Scope,
    ino: Ino,
    attr: &Attr,
    effects: &mut Effects,
) -> Result<Option<Freed>, Halt> {
    let mut freed = None;
    match attr.kind {
        FileType::File => {
            // Whatever made an empty file shorter than it was left a record in its first chunk: without one, there is
            // no data anywhere, and nothing has to be remembered.
            if attr.length == 0 {
                need(read, [Key::Chunk(ino, 0)])?;
            }
            if attr.length > 0 || !read.chunk(ino, 0).is_empty() {
                let note = DelFile { length: attr.length, removed_secs: scope.now.secs };
                effects.push(Effect::Slice(SliceEffect::PutDelFile(ino, note)));
                freed = Some(Freed { ino, length: attr.length });
            }
        }
        FileType::Symlink => effects.push(Effect::Node(ino, NodeEffect::DeleteSymlink)),
        _ => {}
    }
    effects.push(Effect::Node(ino, NodeEffect::Delete));
    count_gone(effects, attr);
    Ok(freed)
}

/// An empty directory loses its name: into the trash, or gone.
pub(crate) fn lose_directory(scope: &Scope, removal: &Removal, loss: &Loss<'_>, effects: &mut Effects) -> Removed {
    let ino = loss.edge.ino;
    count_entry(scope, effects, loss.parent, negative(entry_stat(loss.attr)));
    effects.push(Effect::Account(AccountEffect::DeleteDirStat(ino)));
    effects.push(Effect::Account(AccountEffect::DeleteDirQuota(ino)));
    if let Some(attr) = loss.attr {
        match removal.trash.filter(|_| !attr.has_flag(flags::SKIP_TRASH)) {
            Some(trash) => into_trash(scope, loss, attr, trash, effects),
            None => {
                effects.push(Effect::Node(ino, NodeEffect::Delete));
                effects.push(Effect::Node(ino, NodeEffect::DeleteXattrs));
                count_gone(effects, attr);
            }
        }
    }
    Removed { ino: Some(ino), freed: None }
}

/// Which hourly directory takes a non-directory. A second name of the same file does not go there when its place is
/// taken: then it is simply one link less.
fn trash_for(read: &ReadSet, removal: &Removal, loss: &Loss<'_>, attr: &Attr) -> Result<Option<Ino>, Halt> {
    let Some(trash) = removal.trash.filter(|_| !attr.has_flag(flags::SKIP_TRASH)) else { return Ok(None) };
    if attr.nlink <= 1 {
        return Ok(Some(trash));
    }
    let name = loss.trash_name();
    need(read, [Key::Edge(trash, name.clone())])?;
    Ok(read.edge(trash, &name).is_none().then_some(trash))
}

fn into_trash(scope: &Scope, loss: &Loss<'_>, attr: &Attr, trash: Ino, effects: &mut Effects) {
    let ino = loss.edge.ino;
    let mut kept = attr.clone();
    kept.ctime = scope.now;
    if attr.parent == Ino(0) {
        effects.push(Effect::Node(ino, NodeEffect::AddParent(trash, 1)));
        effects.push(Effect::Node(ino, NodeEffect::AddParent(loss.parent, -1)));
    } else {
        kept.parent = trash;
    }
    effects.push(Effect::Node(ino, NodeEffect::Update(kept)));
    effects.push(Effect::Edge(trash, loss.trash_name(), EdgeEffect::Insert(loss.edge)));
    count_entry(scope, effects, trash, entry_stat(Some(attr)));
}
