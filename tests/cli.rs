//! The command as a user meets it, without a mount.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;

fn larder(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("larder").unwrap();
    command.env_remove("LARDER_LOG").args(arguments).output().unwrap()
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_and_version_answer_with_success_and_help_has_examples() {
    for command in ["mount", "umount", "sync", "status"] {
        assert!(larder(&[command, "--help"]).status.success(), "{command}");
    }
    let help = larder(&["--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("larder mount ~/store.larder ~/larder"));
    assert!(String::from_utf8_lossy(&larder(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_manual_pages_tell_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    assert!(larder(&["man", pages.to_str().unwrap()]).status.success());
    let bash = String::from_utf8(larder(&["completions", "bash"]).stdout).unwrap();
    let help = String::from_utf8(larder(&["--help"]).stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 15, "{help}");
    for command in commands {
        let page = std::fs::read_to_string(pages.join(format!("larder-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}: {page}");
        assert!(bash.contains(command), "{command}");
    }
    assert!(pages.join("larder.1").exists());
    for shell in ["zsh", "fish"] {
        assert!(String::from_utf8(larder(&["completions", shell]).stdout).unwrap().contains("decompress"));
    }
    assert_eq!(larder(&["completions", "cmd.exe"]).status.code(), Some(2));
    assert_eq!(larder(&["man", "/dev/null/x"]).status.code(), Some(2));
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for wrong in
        [&[][..], &["frobnicate"], &["mount"], &["mount", "a"], &["umount"], &["status", "--nonsense"]]
    {
        assert_eq!(larder(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_mount_that_cannot_be_made_exits_with_1_in_fore_and_background_and_names_path_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let store = store.to_str().unwrap();
    let missing = dir.path().join("missing");
    let missing = missing.to_str().unwrap();
    for arguments in [&["mount", store, missing][..], &["mount", "--foreground", store, missing]] {
        let output = larder(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = stderr(&output);
        assert!(
            text.starts_with("larder: ") && text.contains(missing) && text.contains("mkdir -p"),
            "{text}"
        );
    }
    assert!(!std::path::Path::new(store).exists(), "a refused mount leaves no store behind");
}

#[test]
fn a_setting_that_is_wrong_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().join("mnt");
    std::fs::create_dir(&point).unwrap();
    let store = dir.path().join("store");
    let (point, path) = (point.to_str().unwrap(), store.to_str().unwrap());
    for (flag, expected) in [
        (["--cache-size-limit", "1MiB"], "at least 8MiB"),
        (["--storage-encryption", "aes-256-gcm"], "not yet available"),
        (["-o", "fancy"], "-o fancy"),
        (["-o", "storage-encryption=aes-256-gcm"], "not yet available"),
    ] {
        let output = larder(&["mount", flag[0], flag[1], path, point]);
        assert_eq!(output.status.code(), Some(1), "{flag:?}");
        assert!(stderr(&output).contains(expected), "{flag:?}: {}", stderr(&output));
        assert!(!store.exists(), "{flag:?}");
    }
}

#[test]
fn what_is_not_mounted_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for command in ["umount", "sync", "status"] {
        let output = larder(&[command, path]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(stderr(&output).contains(path), "{command}: {}", stderr(&output));
    }
    std::fs::write(dir.path().join("FORMAT"), "").unwrap();
    let output = larder(&["status", path]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("mounted    no"));
}
