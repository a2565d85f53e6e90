// Kubeschema tells whether a Kubernetes API server would take rendered objects.
//
//	kubeschema FILE
//
// It decodes every document of FILE strictly (no unknown and no doubled field), fills in the defaults and runs the checks that the
// API server runs when an object is created; pods must fit Pod Security's restricted level too. It prints every object as it was
// written, as JSON, one a line, or fails with what the server would refuse.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kubeschema FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "kubeschema:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(file))
	var lines bytes.Buffer
	var refused []error
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		text, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return fmt.Errorf("%w, in\n%s", err, document)
		}
		if string(text) == "null" {
			continue
		}
		if err := check(text); err != nil {
			refused = append(refused, fmt.Errorf("%s: %w", name(text), err))
		}
		if err := json.Compact(&lines, text); err != nil {
			return err
		}
		lines.WriteByte('\n')
	}
	if len(refused) > 0 {
		return errors.Join(refused...)
	}
	_, err = lines.WriteTo(os.Stdout)
	return err
}

// name says which object a document is, for errors.
func name(text []byte) string {
	var object struct {
		Kind     string
		Metadata struct{ Name string }
	}
	// What cannot be decoded has an error of its own.
	_ = json.Unmarshal(text, &object)
	return object.Kind + " " + object.Metadata.Name
}
