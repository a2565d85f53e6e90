//! [`Mount`]: what containerd is to mount for a snapshot.

use std::path::{Path, PathBuf};

/// A mount as mount(8) has it, for containerd to make wherever it wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The type.
    pub kind: &'static str,
    /// The source.
    pub source: String,
    /// The options.
    pub options: Vec<String>,
}

/// The folders of a snapshot's own, if it is written to, and of what it stands on, the nearest first.
#[derive(Debug)]
pub(crate) struct Stack<'a> {
    /// `fs` and `work`.
    pub(crate) upper: Option<(&'a Path, &'a Path)>,
    pub(crate) lower: &'a [PathBuf],
    /// Whether some of the lower ones are in a file system of ours.
    pub(crate) is_lazy: bool,
}

/// Which options the kernel's overlayfs knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overlay {
    has_index: bool,
    has_xino: bool,
}

impl Overlay {
    /// Looks what this machine's knows: what it does not know now it may once its module is there.
    pub(crate) fn of_kernel() -> Self {
        let knows = |name: &str| Path::new("/sys/module/overlay/parameters").join(name).try_exists().unwrap_or(false);
        Self { has_index: knows("index"), has_xino: knows("xino_auto") }
    }

    /// Returns the mount of a snapshot. One folder alone is bound; overlayfs wants two.
    pub(crate) fn mount(self, stack: &Stack<'_>) -> Mount {
        match (stack.upper, stack.lower) {
            (Some((upper, _)), []) => bind(upper, "rw"),
            (None, [lower]) => bind(lower, "ro"),
            (upper, lower) => {
                let mut options = Vec::new();
                // Without it a lower folder may be part of many mounts at once, which is what images are.
                if self.has_index {
                    options.push("index=off".to_owned());
                }
                // What is copied up keeps its inode number for good. Where all is in one file system it does so anyway.
                if self.has_xino && stack.is_lazy && upper.is_some() {
                    options.push("xino=on".to_owned());
                }
                if let Some((upper, work)) = upper {
                    options.push(format!("workdir={}", work.display()));
                    options.push(format!("upperdir={}", upper.display()));
                }
                let lower: Vec<String> = lower.iter().map(|lower| lower.display().to_string()).collect();
                options.push(format!("lowerdir={}", lower.join(":")));
                Mount { kind: "overlay", source: "overlay".to_owned(), options }
            }
        }
    }
}

fn bind(folder: &Path, access: &str) -> Mount {
    let options = vec![access.to_owned(), "rbind".to_owned()];
    Mount { kind: "bind", source: folder.display().to_string(), options }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(upper: bool, lower: &[&str], is_lazy: bool) -> (&'static str, String) {
        let lower: Vec<PathBuf> = lower.iter().map(PathBuf::from).collect();
        let upper = upper.then_some((Path::new("/r/9/fs"), Path::new("/r/9/work")));
        let knows_all = Overlay { has_index: true, has_xino: true };
        let mount = knows_all.mount(&Stack { upper, lower: &lower, is_lazy });
        (mount.kind, format!("{} {}", mount.source, mount.options.join(",")))
    }

    #[test]
    fn one_folder_is_bound_and_more_are_laid_over_each_other() {
        assert_eq!(mount(true, &[], false), ("bind", "/r/9/fs rw,rbind".into()));
        assert_eq!(mount(false, &["/r/1/fs"], true), ("bind", "/r/1/fs ro,rbind".into()));
        let whole = "overlay index=off,workdir=/r/9/work,upperdir=/r/9/fs,lowerdir=/r/2/fs:/r/1/fs";
        assert_eq!(mount(true, &["/r/2/fs", "/r/1/fs"], false), ("overlay", whole.into()));
        let lazy = "overlay index=off,xino=on,workdir=/r/9/work,upperdir=/r/9/fs,lowerdir=/r/lazy/1";
        assert_eq!(mount(true, &["/r/lazy/1"], true), ("overlay", lazy.into()));
    }

    #[test]
    fn an_old_kernel_is_told_nothing_that_it_does_not_know() {
        let knows_nothing = Overlay { has_index: false, has_xino: false };
        let lower = ["/r/lazy/2", "/r/1/fs"].map(PathBuf::from);
        let upper = Some((Path::new("/r/9/fs"), Path::new("/r/9/work")));
        let options = knows_nothing.mount(&Stack { upper, lower: &lower, is_lazy: true }).options;
        assert_eq!(options, ["workdir=/r/9/work", "upperdir=/r/9/fs", "lowerdir=/r/lazy/2:/r/1/fs"]);
    }
}
