// Stargz serves the reference snapshotter to a containerd, as a proxy plugin.
//
//	stargz ROOT SOCKET
//
// It keeps everything in ROOT and listens on SOCKET. It has the settings that the reference has by default and no
// credentials; the library speaks plain HTTP with registries on loopback. SIGTERM ends it, and what it mounted with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// settings are the reference's own. What is true there by default is only so where its TOML file is read.
var settings = service.Config{
	Config: config.Config{DirectoryCacheConfig: config.DirectoryCacheConfig{Direct: true}},
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: stargz ROOT SOCKET")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "stargz:", err)
		os.Exit(1)
	}
}

func run(root, socket string) (err error) {
	asked, forget := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer forget()
	// The kernel names mount points in this form.
	if root, err = filepath.Abs(root); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return err
	}
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), root, &settings)
	if err != nil {
		return err
	}
	// To close it takes seconds where much is cached, and leaves mounted what is in use.
	defer func() { err = errors.Join(err, detach(root), snapshotter.Close()) }()

	// One that was killed leaves its socket.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	// Nothing may be mounted once all is being unmounted.
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	api.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-asked.Done():
		server.Stop()
		return nil
	}
}

// detach unmounts all below a folder, what is in use too.
func detach(folder string) error {
	left, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		below, err := filepath.Rel(folder, m.Mountpoint)
		return err != nil || below == "." || !filepath.IsLocal(below), false
	})
	if err != nil {
		return err
	}
	var failed error
	for i := len(left) - 1; i >= 0; i-- {
		if err := unix.Unmount(left[i].Mountpoint, unix.MNT_DETACH); err != nil {
			failed = errors.Join(failed, fmt.Errorf("unmount %s: %w", left[i].Mountpoint, err))
		}
	}
	return failed
}
