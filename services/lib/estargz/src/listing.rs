//! From a tar's entries to a TOC's entries.

use crate::entry::{EntryType, TocEntry, Xattrs};
use crate::tar::Meta;
use crate::time;
use crate::tree::{Plan, Role};

/// Returns the TOC entry of one tar entry, without digest and chunks.
pub fn entry(meta: Meta) -> TocEntry {
    let (seconds, nanos) = time::bounded(meta.seconds, meta.nanos);
    let mut xattrs = Xattrs::default();
    for (name, value) in meta.xattrs {
        if is_settable(&name, meta.kind) {
            xattrs.0.insert(name, value);
        }
    }
    TocEntry {
        size: meta.size,
        modtime: time::format(seconds, nanos),
        link_name: meta.link_name,
        // A symlink has no mode of its own.
        mode: if meta.kind == EntryType::Symlink { 0o777 } else { meta.mode },
        uid: owner(meta.uid),
        gid: owner(meta.gid),
        user_name: meta.user_name,
        group_name: meta.group_name,
        dev_major: meta.device.0,
        dev_minor: meta.device.1,
        xattrs,
        ..TocEntry::new(meta.name, meta.kind)
    }
}

/// Returns the owner that chown(2) sets: it takes 32 bits and leaves a file that root made as it is for -1.
const fn owner(id: i64) -> i64 {
    match id as u32 {
        u32::MAX => 0,
        id => id as i64,
    }
}

/// Tells whether an unpack sets the attribute: containerd's applier never sets `trusted.*`, and Linux has `user.*` only
/// on files and directories. A hard link may name either, so its attributes are judged when they are applied.
fn is_settable(name: &str, kind: EntryType) -> bool {
    let may_have_user = matches!(kind, EntryType::Reg | EntryType::Dir | EntryType::Hardlink);
    !name.starts_with("trusted.") && (may_have_user || !name.starts_with("user."))
}

/// Calls `emit` for each entry of the TOC, in order, with the number of the tar's entry that its type, payload and
/// place come from. `load` returns [`entry`] of a tar's entry; what it says of payload is handed on.
///
/// # Errors
/// Those of `load` and `emit`.
pub fn list<E>(
    plan: &Plan,
    mut load: impl FnMut(u32) -> Result<TocEntry, E>,
    mut emit: impl FnMut(u32, TocEntry) -> Result<(), E>,
) -> Result<(), E> {
    for number in 0..plan.len() {
        match plan.role(number) {
            Role::Absent => {}
            Role::Link { to } => emit(number, link(&mut load, number, to)?)?,
            Role::File { name } => {
                emit(number, file(plan, &mut load, number, name)?)?;
                for early in plan.early_links(number) {
                    emit(early, link(&mut load, early, name)?)?;
                }
            }
        }
    }
    Ok(())
}

fn link<E>(load: &mut impl FnMut(u32) -> Result<TocEntry, E>, number: u32, to: u32) -> Result<TocEntry, E> {
    let mut link = load(number)?;
    link.link_name = load(to)?.name;
    link.xattrs = Xattrs::default();
    Ok(link)
}

fn file<E>(
    plan: &Plan,
    load: &mut impl FnMut(u32) -> Result<TocEntry, E>,
    number: u32,
    name: u32,
) -> Result<TocEntry, E> {
    let mut file = load(number)?;
    if name != number {
        file.name = load(name)?.name;
    }
    let mut applied: Vec<u32> = plan.applied(number).take_while(|&n| n != number).collect();
    applied.reverse();
    for later in applied {
        let later = load(later)?;
        file.modtime = later.modtime;
        file.uid = later.uid;
        file.gid = later.gid;
        file.user_name = later.user_name;
        file.group_name = later.group_name;
        // A symlink's mode cannot be set.
        if file.kind != EntryType::Symlink {
            file.mode = later.mode;
        }
        // Setting the owner of anything but a directory drops its capabilities.
        if file.kind != EntryType::Dir {
            file.xattrs.0.remove("security.capability");
        }
        let settable = later.xattrs.0.into_iter().filter(|(name, _)| is_settable(name, file.kind));
        file.xattrs.0.extend(settable);
    }
    Ok(file)
}
