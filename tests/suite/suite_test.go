// Package suite runs the tests that containerd has for snapshotters on Firstlight's.
//
//	suite.test -test.root -program PATH -test.v
package suite

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	_ "github.com/containerd/containerd/v2/pkg/testutil" // The flag -test.root.
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var program = flag.String("program", "firstlight-snapshotter", "the snapshotter's program")

// TestSuite starts a holder and a snapshotter for each test of the suite.
func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		node, err := start(filepath.Dir(root), root)
		if err != nil {
			return nil, nil, err
		}
		conn, err := grpc.NewClient("unix://"+node.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			node.stop()
			return nil, nil, err
		}
		stop := func() error {
			conn.Close()
			err := node.stop()
			// They outlive it, for what runs.
			for _, mount := range []string{"lazy", "bare"} {
				err = errors.Join(err, unix.Unmount(filepath.Join(root, mount), unix.MNT_DETACH))
			}
			return err
		}
		return proxy.NewSnapshotter(api.NewSnapshotsClient(conn), "firstlight"), stop, nil
	})
}

// node is a running snapshotter and its holder.
type node struct {
	socket string
	procs  []*exec.Cmd
}

// start runs a snapshotter below root, with its sockets and its log in folder.
func start(folder, root string) (*node, error) {
	socket, holder := filepath.Join(folder, "s.sock"), filepath.Join(folder, "h.sock")
	config := filepath.Join(folder, "config.toml")
	text := fmt.Sprintf("root = '%s'\nsocket = '%s'\nholder = '%s'\n", root, socket, holder)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	node := &node{socket: socket}
	for _, one := range []struct{ command, socket string }{{"hold", holder}, {"run", socket}} {
		proc := exec.Command(*program, "--config", config, one.command)
		proc.Stdout, proc.Stderr = log, log
		if err := proc.Start(); err != nil {
			node.stop()
			return nil, err
		}
		node.procs = append(node.procs, proc)
		if err := ready(one.socket); err != nil {
			node.stop()
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("%s: %w: %s", one.command, err, said)
		}
	}
	return node, nil
}

// ready waits until somebody listens.
func ready(socket string) error {
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends the snapshotter, then its holder.
func (n *node) stop() error {
	var failed error
	for i := len(n.procs) - 1; i >= 0; i-- {
		n.procs[i].Process.Signal(unix.SIGTERM)
		// The holder has nothing to end properly.
		if err := n.procs[i].Wait(); err != nil && i > 0 {
			failed = err
		}
	}
	return failed
}
