package istiod

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

var _ = Describe("trust", Ordered, func() {
	var c *netsim.Cluster
	BeforeAll(func(ctx SpecContext) {
		c = cluster(ctx, fleet())
		Expect(c.Apply(ctx, weights(1, 1))).To(Succeed())
	}, NodeTimeout(time.Minute))

	// The agent of node a is started with something wrong, says what, keeps what is
	// in force and goes on by itself when it is put right.
	DescribeTable("an agent that istiod must not trust, or that must not trust istiod", func(
		ctx SpecContext, spoil func(ctx SpecContext, files netsim.IstiodFiles), want string,
	) {
		files := must(c.IstiodFiles("a"))
		token, roots := must(os.ReadFile(files.Token)), must(os.ReadFile(files.Roots))
		restore := func() {
			Expect(os.WriteFile(files.Token, token, 0o600)).To(Succeed())
			Expect(os.WriteFile(files.Roots, roots, 0o600)).To(Succeed())
		}
		defer restore()
		Expect(c.Do(ctx, scenario.KillAgent{Node: "a"})).To(Succeed())
		spoil(ctx, files)
		Expect(c.LaunchAgent(ctx, "a")).To(Succeed())
		Eventually(ctx, func(g Gomega) {
			s, err := statusOf(ctx, c)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(s.Source.Lost).To(ContainSubstring(want))
			g.Expect(s.Source.Losses).To(BeNumerically(">=", 2), "it does not try again")
		}).Should(Succeed())
		Expect(reach(ctx, c, vip(c))).To(BeEmpty(), "what was in force is gone")
		restore()
		Expect(c.Apply(ctx, weights(1, 1))).To(Succeed(), "it does not go on when all is right")
	},
		Entry("no token at all", func(_ SpecContext, f netsim.IstiodFiles) {
			Expect(os.Remove(f.Token)).To(Succeed())
		}, "there is no token to show istiod", SpecTimeout(time.Minute)),
		Entry("a token for another audience", func(ctx SpecContext, f netsim.IstiodFiles) {
			t := netsim.AgentToken("a")
			t.Audiences = nil
			Expect(plane.Stack().WriteToken(ctx, t, f.Token)).To(Succeed())
		}, `istiod does not accept the token: its audience is "`, SpecTimeout(time.Minute)),
		Entry("an expired token", func(_ SpecContext, f netsim.IstiodFiles) {
			Expect(os.WriteFile(f.Token, expired(must(os.ReadFile(f.Token))), 0o600)).To(Succeed())
		}, "expired", SpecTimeout(time.Minute)),
		Entry("the token of another account", func(ctx SpecContext, f netsim.IstiodFiles) {
			t := controlplane.Token{Namespace: "default", ServiceAccount: "default", Audiences: []string{controlplane.Audience}}
			Expect(plane.Stack().WriteToken(ctx, t, f.Token)).To(Succeed())
		}, "does not let this identity ask", SpecTimeout(time.Minute)),
		Entry("roots of another authority", func(_ SpecContext, f netsim.IstiodFiles) {
			Expect(os.WriteFile(f.Roots, stranger(), 0o600)).To(Succeed())
		}, "istiod is not the one whose certificate the roots have signed", SpecTimeout(time.Minute)),
	)
})

// expired is a token signed as the API server signs it, an hour too old.
func expired(token []byte) []byte {
	GinkgoHelper()
	parts := strings.Split(string(token), ".")
	Expect(parts).To(HaveLen(3))
	var claims map[string]any
	Expect(json.Unmarshal(must(base64.RawURLEncoding.DecodeString(parts[1])), &claims)).To(Succeed())
	old := time.Now().Add(-time.Hour).Unix()
	claims["iat"], claims["nbf"], claims["exp"] = old-600, old-600, old
	block, _ := pem.Decode(must(os.ReadFile(filepath.Join(plane.Dir(), controlplane.TokenKeyFile))))
	key := must(x509.ParsePKCS1PrivateKey(block.Bytes))
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(claims)))
	sum := sha256.Sum256([]byte(signed))
	signature := must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:]))
	return []byte(signed + "." + base64.RawURLEncoding.EncodeToString(signature))
}

// stranger is the certificate of an authority that has signed nothing here.
func stranger() []byte {
	GinkgoHelper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, t, t, key.Public(), key))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
