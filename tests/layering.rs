//! The tree is the architecture, kept true: who may name whom, who may name glommio, and that no
//! lock and no shared atomic is reachable from the data path.
//!
//! Reads the sources of `src` as text, without comments and string contents. What it cannot see: a
//! `super::` chain that climbs to the root, which is refused as such.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Module, and what it may name besides itself. The table of STYLE.md section 2; it changes in a
/// commit of its own, with the reason.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("config", &["types"]),
    ("metrics", &["types", "config"]),
    ("schema", &["types", "config", "metrics"]),
    ("codec", &["types", "config", "metrics", "schema"]),
    ("log", LOWER),
    // Peers: never each other.
    ("replication", WITH_LOG),
    ("cluster", WITH_LOG),
    ("group", WITH_LOG),
    ("txn", WITH_LOG),
    ("quota", WITH_LOG),
    ("telemetry", WITH_LOG),
    // Looks at the host before any shard exists.
    ("preflight", &["types", "config"]),
    ("shard", SHELL),
    ("sim", SHELL),
    // Asks the shards through a function type of `metrics`.
    ("admin", &["types", "config", "metrics"]),
    // The binary; it names the library as `odradek::`.
    ("cli", &[]),
    ("main", &["cli"]),
    ("lib", &[]),
];

const LOWER: &[&str] = &["types", "config", "metrics", "schema", "codec"];
const WITH_LOG: &[&str] = &["types", "config", "metrics", "schema", "codec", "log"];
const SHELL: &[&str] = &[
    "types",
    "config",
    "metrics",
    "schema",
    "codec",
    "log",
    "replication",
    "cluster",
    "group",
    "txn",
    "quota",
    "telemetry",
    "preflight",
];

/// Modules that may name glommio.
const GLOMMIO: &[&str] = &["shard", "main"];

/// Everything that runs while a record is on its way.
const DATA_PATH: &[&str] = &[
    "types",
    "config",
    "metrics",
    "schema",
    "codec",
    "log",
    "replication",
    "cluster",
    "group",
    "txn",
    "quota",
    "telemetry",
    "shard",
];

/// Words that mean memory shared between threads. `Arc` is one: its count is a shared atomic.
const SHARED: &[&str] =
    &["Mutex", "RwLock", "Condvar", "Once", "OnceLock", "LazyLock", "Barrier", "Atomic*", "Arc"];

/// File, word, and why it does not touch the data path.
const SHARED_ALLOWED: &[(&str, &str, &str)] = &[
    ("metrics/mod.rs", "Arc", "the admin thread's handle on the function that asks the shards"),
    ("shard/executor.rs", "Arc", "what a start hands to its shards, and the admin thread's way to ask them"),
    (
        "shard/executor.rs",
        "Mutex",
        "the quorum on its way to shard 0 at start, since it is not Sync: never locked",
    ),
    ("shard/executor/opening.rs", "Arc", "the same, where it is made"),
    ("shard/executor/opening.rs", "Mutex", "the same"),
    (
        "shard/message.rs",
        "Arc",
        "metadata deltas: counted once per change of the cluster's image, not per record",
    ),
    (
        "shard/named_partitions.rs",
        "Mutex",
        "small files that the shards of a node share: taken on helper threads, by starts and removals",
    ),
    ("shard/quorum.rs", "Arc", "the same deltas, where they are made"),
];

#[test]
fn layers_name_only_what_lies_below_them() {
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(allowed) = layers.get(source.module.as_str()) else {
            wrong.push(format!("{}: `{}` has no row in the table", source.name, source.module));
            continue;
        };
        for named in source.crate_paths() {
            // Items of the crate's root (none so far) would start in upper case.
            if named != source.module && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{}: `{}` must not name `crate::{named}`", source.name, source.module));
            }
        }
        if source.climbs_out() {
            wrong.push(format!("{}: use a `crate::` path, so that this test can see it", source.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_shell_names_glommio() {
    let names = |source: &Source| source.words().any(|word| word == "glommio");
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|source| !GLOMMIO.contains(&source.module.as_str()) && names(source))
        .map(|source| source.name)
        .collect();
    assert!(wrong.is_empty(), "glommio is named in {wrong:?}");
}

#[test]
fn no_lock_and_no_shared_atomic_is_reachable_from_the_data_path() {
    let mut wrong = Vec::new();
    let mut used = vec![false; SHARED_ALLOWED.len()];
    for source in sources().iter().filter(|source| DATA_PATH.contains(&source.module.as_str())) {
        for word in source.words().filter(|word| is_shared(word)) {
            let place =
                SHARED_ALLOWED.iter().position(|(file, allowed, _)| *file == source.name && *allowed == word);
            match place {
                Some(place) => used[place] = true,
                None => wrong.push(format!("{} names {word}", source.name)),
            }
        }
        if source.code.contains("static mut") {
            wrong.push(format!("{} has a static mut", source.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let stale = used.iter().zip(SHARED_ALLOWED).filter(|(used, _)| !**used).map(|(_, allowed)| allowed);
    assert_eq!(stale.collect::<Vec<_>>(), Vec::<&(&str, &str, &str)>::new(), "no longer needed");
}

#[test]
fn the_scanner_sees_through_comments_strings_and_braces() {
    let source = Source {
        name: "log/x.rs".to_string(),
        module: "log".to_string(),
        code: strip(
            "// crate::shard\n/* crate::sim */ use crate::{codec::{A, B}, types};\n\
             let s = \"crate::admin // \\\" Mutex\"; let c = '\"'; pub(in crate::log) fn f<'a>() {}\n\
             fn g(x: &std::sync::atomic::AtomicU64) { crate::cluster::h(r#\"glommio\"#) }",
        ),
    };
    assert_eq!(source.crate_paths(), ["codec", "types", "log", "cluster"]);
    let shared: Vec<_> = source.words().filter(|word| is_shared(word)).collect();
    assert_eq!(shared, ["AtomicU64"]);
    assert!(!source.words().any(|word| word == "glommio"));
    assert!(!source.climbs_out());
    let climbing =
        Source { name: "log.rs".to_string(), module: "log".to_string(), code: "super::shard::x".to_string() };
    assert!(climbing.climbs_out());
}

struct Source {
    /// Path below `src`.
    name: String,
    /// First component of the path, without `.rs`.
    module: String,
    /// Without comments and the contents of strings.
    code: String,
}

impl Source {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
    }

    /// The first component after each `crate::`, looking into braces.
    fn crate_paths(&self) -> Vec<String> {
        let mut named = Vec::new();
        let starts =
            self.code.match_indices("crate::").filter(|(at, _)| !self.code[..*at].ends_with(is_word));
        for (at, matched) in starts {
            let rest = &self.code[at + matched.len()..];
            match rest.strip_prefix('{') {
                None => named.push(first_word(rest)),
                Some(group) => named.extend(top_level(group).iter().map(|item| first_word(item))),
            }
        }
        named
    }

    /// True if a `super::` chain is longer than the file is deep; a module in the file may add one.
    fn climbs_out(&self) -> bool {
        let inner = usize::from(self.code.contains("mod tests {"));
        let is_root = self.name.ends_with("mod.rs");
        let depth = self.name.split('/').count() - usize::from(is_root) + inner;
        self.code.contains(&"super::".repeat(depth.max(1)))
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|&c| is_word(c)).collect()
}

/// The items of a brace group, whose opening brace is already gone.
fn top_level(group: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0usize;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ => {}
        }
        if let Some(item) = items.last_mut() {
            item.push(c);
        }
    }
    let items = items.into_iter().map(|item| item.trim_start_matches(',').trim().to_string());
    items.filter(|item| !item.is_empty()).collect()
}

fn is_shared(word: &str) -> bool {
    SHARED.iter().any(|shared| match shared.strip_suffix('*') {
        Some(prefix) => word.starts_with(prefix) && word.len() > prefix.len(),
        None => word == *shared,
    })
}

/// Drops comments and what stands between quotes. Lifetimes and quoted characters are told apart by
/// their closing quote.
fn strip(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        if starts(at, "//") {
            at += chars[at..].iter().position(|&c| c == '\n').unwrap_or(chars.len() - at);
        } else if starts(at, "/*") {
            at +=
                (at..chars.len()).find(|&end| starts(end, "*/")).map_or(chars.len() - at, |end| end + 2 - at);
        } else if let Some(hashes) = raw_string(&chars[at..]) {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = at + 2 + hashes;
            let end = (body..chars.len()).find(|&end| starts(end, &close)).unwrap_or(chars.len());
            code.push_str("\"\"");
            at = end + close.len();
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            code.push_str("\"\"");
            at += 1;
        } else if chars[at] == '\'' && chars.get(at + 1) == Some(&'\\') {
            at += 3;
            while at < chars.len() && chars[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if chars[at] == '\'' && chars.get(at + 2) == Some(&'\'') {
            at += 3;
        } else {
            code.push(chars[at]);
            at += 1;
        }
    }
    code
}

/// The number of hashes if a raw string starts here.
fn raw_string(chars: &[char]) -> Option<usize> {
    if chars.first() != Some(&'r') {
        return None;
    }
    let hashes = chars[1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(1 + hashes) == Some(&'"')).then_some(hashes)
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    find(&root, &mut files);
    assert!(files.len() > 10, "the sources are in {}", root.display());
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).expect("found below it").to_string_lossy().into_owned();
        let module = name.split(['/', '.']).next().unwrap_or_default().to_string();
        Source { name, module, code: strip(&std::fs::read_to_string(path).expect("a source file is UTF-8")) }
    };
    files.iter().map(read).collect()
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).expect("a readable directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
