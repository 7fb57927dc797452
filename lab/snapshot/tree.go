package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// xattrRecord begins the names under which tar programs keep extended attributes: overlays and capabilities need theirs.
const xattrRecord = "SCHILY.xattr."

// packer writes files of a tree.
type packer struct {
	archive *tar.Writer
	linked  map[[2]uint64]string // device and inode of a file with several names → its first name
}

// pack adds a tree to an archive. It does not cross mounts: what is mounted in it belongs to somebody else. What goes away meanwhile is
// left out.
func pack(archive *tar.Writer, tree Tree) error {
	p := &packer{archive: archive, linked: map[[2]uint64]string{}}
	mount, err := mountOf(tree.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return filepath.WalkDir(tree.Dir, func(file string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(tree.Dir, file)
		if err != nil {
			return err
		}
		if rel != "." && tree.Leave != nil && tree.Leave(rel) {
			return skip(entry)
		}
		if on, err := mountOf(file); err != nil || on != mount {
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				return skip(entry)
			}
			return err
		}
		err = p.file(file, path.Join(tree.Prefix, filepath.ToSlash(rel)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func skip(entry fs.DirEntry) error {
	if entry.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// mountOf identifies the mount that a file is on: also two mounts of one file system differ.
func mountOf(file string) (uint64, error) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, file, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &stat); err != nil {
		return 0, &fs.PathError{Op: "statx", Path: file, Err: err}
	}
	return stat.Mnt_id, nil
}

// file adds one file, whatever its kind but a socket.
func (p *packer) file(file, name string) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	head, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	head.Name, head.Format, head.Uname, head.Gname = name, tar.FormatPAX, "", ""
	head.AccessTime, head.ChangeTime = time.Time{}, time.Time{}
	if head.PAXRecords, err = attributes(file); err != nil {
		return err
	}
	if head.Typeflag != tar.TypeReg {
		return p.archive.WriteHeader(head)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 && p.linked != nil {
		id := [2]uint64{stat.Dev, stat.Ino}
		if first, seen := p.linked[id]; seen {
			head.Typeflag, head.Linkname, head.Size = tar.TypeLink, first, 0
			return p.archive.WriteHeader(head)
		}
		p.linked[id] = name
	}
	return p.content(file, head)
}

// content copies as many bytes as the header promises, even of a file that grows or shrinks meanwhile.
func (p *packer) content(file string, head *tar.Header) error {
	source, err := os.Open(file)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := p.archive.WriteHeader(head); err != nil {
		return err
	}
	copied, err := io.Copy(p.archive, io.LimitReader(source, head.Size))
	if err != nil {
		return err
	}
	for missing := head.Size - copied; missing > 0; {
		n, err := p.archive.Write(make([]byte, min(missing, 1<<16)))
		if err != nil {
			return err
		}
		missing -= int64(n)
	}
	return nil
}

// attributes are the extended attributes of a file, as PAX records.
func attributes(file string) (map[string]string, error) {
	names := make([]byte, 1<<16) // what the kernel allows
	n, err := unix.Llistxattr(file, names)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "list attributes", Path: file, Err: err}
	}
	records := map[string]string{}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(file, string(name), value)
		if err != nil {
			return nil, &fs.PathError{Op: "read attribute", Path: file, Err: err}
		}
		records[xattrRecord+string(name)] = string(value[:n])
	}
	return records, nil
}

// unpack writes one entry below root, which nothing in the archive can leave. A file that is there already is replaced.
func unpack(root *os.Root, name string, head *tar.Header, content io.Reader) error {
	if !filepath.IsLocal(name) {
		return errors.New("a path that leads out of the snapshot")
	}
	parent := path.Dir(name)
	if err := root.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	dir, err := root.Open(parent)
	if err != nil {
		return err
	}
	defer dir.Close()
	// By this name the last element is made and touched in the folder that has just been opened, and nowhere else.
	file := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(name))
	if name == "." {
		file = fmt.Sprintf("/proc/self/fd/%d/.", dir.Fd())
	} else if head.Typeflag != tar.TypeDir {
		if err := os.RemoveAll(file); err != nil {
			return err
		}
	}
	if err := create(root, file, head, content); err != nil || head.Typeflag == tar.TypeLink {
		return err
	}
	if err := os.Lchown(file, head.Uid, head.Gid); err != nil {
		return err
	}
	if head.Typeflag != tar.TypeSymlink {
		if err := os.Chmod(file, head.FileInfo().Mode()); err != nil { // after the owner, who takes bits away
			return err
		}
	}
	for record, value := range head.PAXRecords {
		attribute, is := strings.CutPrefix(record, xattrRecord)
		if !is {
			continue
		}
		if err := unix.Lsetxattr(file, attribute, []byte(value), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return &fs.PathError{Op: "set attribute " + attribute, Path: name, Err: err}
		}
	}
	if head.Typeflag == tar.TypeReg {
		return os.Chtimes(file, head.ModTime, head.ModTime)
	}
	return nil
}

func create(root *os.Root, file string, head *tar.Header, content io.Reader) error {
	switch head.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(file, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case tar.TypeSymlink:
		return os.Symlink(head.Linkname, file)
	case tar.TypeLink:
		_, first, _ := strings.Cut(head.Linkname, "/") // as the entry's own name: without its first element
		from, err := root.Open(path.Dir(first))
		if err != nil {
			return err
		}
		defer from.Close()
		return os.Link(fmt.Sprintf("/proc/self/fd/%d/%s", from.Fd(), path.Base(first)), file)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[head.Typeflag]
		return unix.Mknod(file, kind|0o600, int(unix.Mkdev(uint32(head.Devmajor), uint32(head.Devminor)))) //nolint:gosec // device numbers
	case tar.TypeReg:
		target, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(target, content); err != nil {
			target.Close()
			return err
		}
		return target.Close()
	default:
		return fmt.Errorf("a kind of file that snapshots do not have: %q", head.Typeflag)
	}
}
