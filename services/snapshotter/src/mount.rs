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
}

/// Returns the mount of a snapshot. One folder alone is bound; overlayfs wants two.
pub(crate) fn of(stack: &Stack<'_>, has_index: bool) -> Mount {
    match (stack.upper, stack.lower) {
        (Some((upper, _)), []) => bind(upper, "rw"),
        (None, [lower]) => bind(lower, "ro"),
        (upper, lower) => {
            let mut options = Vec::new();
            // Without it a lower folder may be part of many mounts at once, which is what images are.
            if has_index {
                options.push("index=off".to_owned());
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

fn bind(folder: &Path, access: &str) -> Mount {
    let options = vec![access.to_owned(), "rbind".to_owned()];
    Mount { kind: "bind", source: folder.display().to_string(), options }
}

/// Tells whether the kernel's overlayfs knows the option `index`.
pub(crate) fn has_index() -> bool {
    Path::new("/sys/module/overlay/parameters/index").try_exists().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(upper: bool, lower: &[&str], has_index: bool) -> (&'static str, String) {
        let lower: Vec<PathBuf> = lower.iter().map(PathBuf::from).collect();
        let upper = upper.then_some((Path::new("/r/9/fs"), Path::new("/r/9/work")));
        let mount = of(&Stack { upper, lower: &lower }, has_index);
        (mount.kind, format!("{} {}", mount.source, mount.options.join(",")))
    }

    #[test]
    fn one_folder_is_bound_and_more_are_laid_over_each_other() {
        assert_eq!(mount(true, &[], true), ("bind", "/r/9/fs rw,rbind".into()));
        assert_eq!(mount(false, &["/r/1/fs"], true), ("bind", "/r/1/fs ro,rbind".into()));
        let whole = "overlay index=off,workdir=/r/9/work,upperdir=/r/9/fs,lowerdir=/r/2/fs:/r/1/fs";
        assert_eq!(mount(true, &["/r/2/fs", "/r/1/fs"], true), ("overlay", whole.into()));
        assert_eq!(
            mount(false, &["/r/2/fs", "/r/1/fs"], false),
            ("overlay", "overlay lowerdir=/r/2/fs:/r/1/fs".into())
        );
    }
}
