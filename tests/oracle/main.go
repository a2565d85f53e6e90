// Oracle opens eStargz blobs with the reference library and tells what it sees.
//
//	oracle BLOB TOC-DIGEST
//
// It opens BLOB, checks that its TOC has TOC-DIGEST, checks the digest of every chunk, and prints one JSON object a
// line for each name in the tree. It fails on anything that the reference reader does not accept.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// entry is one name of the tree, a hard link shown as what it leads to.
type entry struct {
	Name    string            `json:"name"`
	Type    string            `json:"type"`
	Size    int64             `json:"size"`
	Mode    int64             `json:"mode"`
	UID     int               `json:"uid"`
	GID     int               `json:"gid"`
	ModTime string            `json:"modtime"`
	Link    string            `json:"link,omitempty"`
	Major   int               `json:"major,omitempty"`
	Minor   int               `json:"minor,omitempty"`
	Xattrs  map[string]string `json:"xattrs,omitempty"`
	Links   int               `json:"links"`
	Inode   int               `json:"inode"`
	SHA256  string            `json:"sha256,omitempty"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: oracle BLOB TOC-DIGEST")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func run(blobPath, tocDigest string) error {
	file, err := os.Open(blobPath)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	want, err := digest.Parse(tocDigest)
	if err != nil {
		return err
	}
	reader, err := estargz.Open(io.NewSectionReader(file, 0, info.Size()))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	verifier, err := reader.VerifyTOC(want)
	if err != nil {
		return fmt.Errorf("verify TOC: %w", err)
	}
	root, ok := reader.Lookup("")
	if !ok {
		return errors.New("there is no root")
	}
	w := bufio.NewWriter(os.Stdout)
	walk := walker{reader: reader, verifier: verifier, out: json.NewEncoder(w), inodes: map[*estargz.TOCEntry]int{}}
	if err := walk.entry("", root); err != nil {
		return err
	}
	return w.Flush()
}

type walker struct {
	reader   *estargz.Reader
	verifier estargz.TOCEntryVerifier
	out      *json.Encoder
	inodes   map[*estargz.TOCEntry]int
	sums     []string
}

func (w *walker) entry(name string, e *estargz.TOCEntry) error {
	inode, known := w.inodes[e]
	if !known {
		inode = len(w.sums)
		w.inodes[e] = inode
		sum, err := w.sum(e)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		w.sums = append(w.sums, sum)
	}
	shown := entry{
		Name: name, Type: e.Type, Size: e.Size, Mode: e.Mode & 0o7777, UID: e.UID, GID: e.GID, ModTime: e.ModTime3339,
		Major: e.DevMajor, Minor: e.DevMinor, Links: e.NumLink, Inode: inode, SHA256: w.sums[inode],
	}
	if e.Type == "symlink" {
		shown.Link = e.LinkName
	}
	for key, value := range e.Xattrs {
		if shown.Xattrs == nil {
			shown.Xattrs = map[string]string{}
		}
		shown.Xattrs[key] = hex.EncodeToString(value)
	}
	if err := w.out.Encode(shown); err != nil {
		return err
	}
	return w.children(name, e)
}

func (w *walker) children(name string, e *estargz.TOCEntry) error {
	if e.Type != "dir" {
		return nil
	}
	children := map[string]*estargz.TOCEntry{}
	e.ForeachChild(func(base string, child *estargz.TOCEntry) bool {
		children[base] = child
		return true
	})
	bases := make([]string, 0, len(children))
	for base := range children {
		bases = append(bases, base)
	}
	sort.Strings(bases)
	for _, base := range bases {
		if err := w.entry(path.Join(name, base), children[base]); err != nil {
			return err
		}
	}
	return nil
}

// sum reads a file chunk by chunk, as a lazy mount does, and checks each chunk and the whole.
func (w *walker) sum(e *estargz.TOCEntry) (string, error) {
	if e.Type != "reg" {
		return "", nil
	}
	hash := sha256.New()
	var file *io.SectionReader
	for at := int64(0); at < e.Size; {
		if file == nil {
			var err error
			if file, err = w.reader.OpenFile(e.Name); err != nil {
				return "", err
			}
		}
		chunk, ok := w.reader.ChunkEntryForOffset(e.Name, at)
		if !ok {
			return "", fmt.Errorf("no chunk at %d", at)
		}
		verifier, err := w.verifier.Verifier(chunk)
		if err != nil {
			return "", err
		}
		size := chunk.ChunkSize
		// One read for all of it: the reference unpacks the member anew for every read.
		payload := make([]byte, size)
		if _, err := file.ReadAt(payload, chunk.ChunkOffset); err != nil && err != io.EOF {
			return "", fmt.Errorf("chunk at %d: %w", at, err)
		}
		hash.Write(payload)
		if _, err := verifier.Write(payload); err != nil {
			return "", err
		}
		if !verifier.Verified() {
			return "", fmt.Errorf("chunk at %d has another digest", at)
		}
		at += size
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if e.Digest != "sha256:"+sum {
		return "", fmt.Errorf("file has digest %s instead of %s", sum, e.Digest)
	}
	return sum, nil
}
