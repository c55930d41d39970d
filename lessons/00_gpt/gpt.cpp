// A GPT that is small enough for pen and paper, from a text to its loss and back.
// g++ -std=c++20 gpt.cpp -o gpt
#include <cmath>
#include <cstdio>
#include <map>
#include <sstream>
#include <valarray>
#include <vector>

using Row = std::valarray<double>;  // +, *, exp and the like work on each of its elements
using Matrix = std::vector<Row>;

Matrix matmul(const Matrix& x, const Matrix& a) {  // (N, W) (W, F) -> (N, F)
  Matrix y(x.size(), Row(a[0].size()));
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t k = 0; k < a.size(); ++k) y[i] += x[i][k] * a[k];
  return y;
}

Matrix transposed(const Matrix& m) {
  Matrix t(m[0].size(), Row(m.size()));
  for (std::size_t i = 0; i < m.size(); ++i)
    for (std::size_t j = 0; j < t.size(); ++j) t[j][i] = m[i][j];
  return t;
}

Matrix operator+(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// begin text
const std::map<std::string, int> vocabulary{{"so", 0}, {"far", 1}, {"good", 2}};  // each word has an id

std::vector<int> tokenize(const std::string& text) {
  std::vector<int> ids;
  std::istringstream words(text);
  for (std::string word; words >> word;) ids.push_back(vocabulary.at(word));
  return ids;
}

Matrix onehot(const std::vector<int>& ids) {  // a row for each token, with a 1 in the column of its id
  Matrix rows(ids.size(), Row(vocabulary.size()));
  for (std::size_t i = 0; i < ids.size(); ++i) rows[i][ids[i]] = 1;
  return rows;
}
// end text, begin norm
Matrix layer_norm(Matrix x) {  // gives each row the mean 0 and the variance 1
  for (Row& row : x) {
    row -= row.sum() / row.size();
    row /= std::sqrt((row * row).sum() / row.size() + 1e-5);  // 1e-5: no row is divided by 0
  }
  return x;
}
// end norm, begin softmax
Matrix causal(Matrix scores) {  // no token sees a later one
  const std::size_t n = scores.size();
  for (std::size_t i = 0; i < n; ++i) scores[i][std::slice(i + 1, n - i - 1, 1)] = -INFINITY;
  return scores;
}

Matrix softmax(Matrix scores) {  // gives each row positive elements whose sum is 1
  for (Row& row : scores) row = std::exp(row) / std::exp(row).sum();
  return scores;
}
// end softmax, begin gelu
Matrix gelu(Matrix x) {  // GPT-2's form; 0.79788 is the square root of 2 / pi
  for (Row& row : x) row *= 0.5 * (1 + std::tanh(0.7978845608 * (row + 0.044715 * row * row * row)));
  return x;
}
// end gelu, begin gpt
struct Gpt {  // its parameters; most are 0 or 1, so that the products are easy to redo
  Matrix wte{{1, -1, 1, -1}, {1, 1, -1, 0}, {-1, 0, 1, 1}};                       // (3, 4) a row for each id
  Matrix wpe{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}};             // (4, 4) for each position
  Matrix wq{{1, 0}, {0, 1}, {0, 0}, {0, 0}}, wk{{0, 0}, {0, 0}, {1, 0}, {0, 1}};  // (4, 2) each
  Matrix wv{{0, 1}, {1, 0}, {0, 0}, {0, 0}}, wo{{1, 0, 0, 1}, {0, 1, 1, 0}};      // (4, 2), (2, 4)
  Matrix a{{1, 0, 0, 0, 1, 0}, {0, 1, 0, 0, 0, 1}, {0, 0, 1, 0, -1, 0}, {0, 0, 0, 1, 0, -1}};     // (4, 6)
  Matrix b{{0, 1, 0, 0}, {1, 0, 0, 0}, {0, 0, 0, 1}, {0, 0, 1, 0}, {1, 0, 0, 0}, {0, 0, 0, -1}};  // (6, 4)
  Matrix wu{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 0, 0}};  // (4, 3) from a row to scores for the ids
};
// end gpt

struct Activations {  // every matrix on the way from the ids to the probabilities
  Matrix x, ln, q, k, v, scores, masked, shares, o, x1, ln1, pre, h, x2, ln2, logits, p;
};

// begin forward
Activations forward(const Gpt& g, const std::vector<int>& ids) {
  Activations s;
  s.x = matmul(onehot(ids), g.wte) + g.wpe;  // (4, 4)
  s.ln = layer_norm(s.x);                    // (4, 4)
  // begin head
  s.q = matmul(s.ln, g.wq), s.k = matmul(s.ln, g.wk), s.v = matmul(s.ln, g.wv);  // (4, 2) each
  s.scores = matmul(s.q, transposed(s.k));                                       // (4, 4)
  for (Row& row : s.scores) row /= std::sqrt(2.0);                               // a head has d = 2 columns
  s.masked = causal(s.scores), s.shares = softmax(s.masked);                     // (4, 4) each
  s.o = matmul(s.shares, s.v);                                                   // (4, 2)
  // end head
  s.x1 = s.x + matmul(s.o, g.wo), s.ln1 = layer_norm(s.x1);  // (4, 4) each
  s.pre = matmul(s.ln1, g.a), s.h = gelu(s.pre);             // (4, 6) each
  s.x2 = s.x1 + matmul(s.h, g.b), s.ln2 = layer_norm(s.x2);  // (4, 4) each
  s.logits = matmul(s.ln2, g.wu), s.p = softmax(s.logits);   // (4, 3) each
  return s;
}
// end forward, begin loss
Row cross_entropy(const Matrix& p, const std::vector<int>& next) {  // the loss of each token
  Row loss(next.size());
  for (std::size_t i = 0; i < next.size(); ++i) loss[i] = -std::log(p[i][next[i]]);
  return loss;
}

Matrix cross_entropy_backward(Matrix p, const std::vector<int>& next) {  // for the mean of the losses
  for (std::size_t i = 0; i < next.size(); ++i) p[i][next[i]] -= 1, p[i] /= next.size();
  return p;
}
// end loss
template <class Loss>
Row slope(Row& w, Loss loss) {  // how fast the loss grows with each element, moved a little up and down
  Row slope = w, was = w;
  for (std::size_t j = 0; j < w.size(); ++j, w = was) {
    w[j] = was[j] + 1e-5, slope[j] = loss();
    w[j] = was[j] - 1e-5, slope[j] = (slope[j] - loss()) / 2e-5;
  }
  return slope;
}
// begin adamw
// One step for the parameters w with their gradient g. Both means, m and v, begin at 0.
void adamw(Row& w, const Row& g, Row& m, Row& v, int step) {
  m = 0.9 * m + 0.1 * g;                              // a running mean of the gradient,
  v = 0.999 * v + 0.001 * g * g;                      // and of its square
  const Row m_hat = m / (1 - std::pow(0.9, step));    // both began at 0, and so are
  const Row v_hat = v / (1 - std::pow(0.999, step));  // too small in the first steps
  w -= 0.05 * (m_hat / (std::sqrt(v_hat) + 1e-8) + 0.01 * w);
}
// end adamw

void print(const char* title, const std::vector<std::pair<std::string, Matrix>>& matrices) {  // side by side
  std::printf("%s\n", title);
  for (const auto& [name, m] : matrices) std::printf("  %-*s", 7 * int(m[0].size()), name.c_str());
  for (std::size_t i = 0; i < matrices[0].second.size(); ++i) {
    std::printf("\n");
    for (const auto& [name, m] : matrices)
      for (auto& v : m[i]) std::printf("%*.4g", &v == &m[i][0] ? 9 : 7, std::round(v * 1000) / 1000 + 0);
  }
  std::printf("\n\n");
}

int main(int argc, char** argv) {
  if (argc > 1) return std::fputs("gpt takes no flags\n", stderr), argv[1] == std::string("--help") ? 0 : 2;
  Gpt g;
  const std::vector<int> ids = tokenize("so far so good"), next = tokenize("far so good so");
  const Activations s = forward(g, ids);
  print("1 From ids to rows", {{"onehot", onehot(ids)}, {"X = onehot wte + wpe", s.x}, {"ln(X)", s.ln}});
  print("2 Queries, keys, values", {{"Q = ln(X) Wq", s.q}, {"K = ln(X) Wk", s.k}, {"V = ln(X) Wv", s.v}});
  print("3 The scores of one head",
        {{"Q K' / sqrt(2)", s.scores}, {"masked", s.masked}, {"shares", s.shares}});
  print("4 The first residual", {{"O = shares V", s.o}, {"X1 = X + O Wo", s.x1}, {"ln(X1)", s.ln1}});
  print("5 The MLP", {{"ln(X1) A", s.pre}, {"H = gelu(ln(X1) A)", s.h}});
  print("6 The second residual", {{"X2 = X1 + H B", s.x2}, {"ln(X2)", s.ln2}});
  const Matrix losses = transposed({cross_entropy(s.p, next)});
  print("7 The loss",
        {{"logits = ln(X2) Wu", s.logits}, {"P", s.p}, {"next", onehot(next)}, {"loss", losses}});
  const auto loss = [&] { return cross_entropy(forward(g, ids).p, next).sum() / next.size(); };
  std::vector<Row*> w;  // all rows of all parameters, those of Wu last
  for (Matrix* m : {&g.wte, &g.wpe, &g.wq, &g.wk, &g.wv, &g.wo, &g.a, &g.b, &g.wu})
    for (Row& row : *m) w.push_back(&row);
  Matrix gradient, m, v, curve;
  for (Row* row : w) gradient.push_back(slope(*row, loss)), m.push_back(0 * *row), v.push_back(0 * *row);
  const Matrix dlogits = cross_entropy_backward(s.p, next), dw = matmul(transposed(s.ln2), dlogits);
  const Matrix differences(gradient.end() - 4, gradient.end());
  print("8 And back", {{"dlogits", dlogits}, {"dWu = ln(X2)' dlogits", dw}, {"by differences", differences}});
  for (int step = 1; step <= 101; ++step) {
    if (step <= 3 || step % 20 == 1) curve.push_back({step - 1.0, loss()});
    for (std::size_t i = 0; i < w.size(); ++i) gradient[i] = slope(*w[i], loss);
    for (std::size_t i = 0; i < w.size(); ++i) adamw(*w[i], gradient[i], m[i], v[i], step);
  }
  print("9 Steps of AdamW", {{"  steps   loss", curve}});
  print("10 What it has learnt", {{"P", forward(g, ids).p}, {"next", onehot(next)}});
  return loss() < 0.01 ? 0 : 1;
}
