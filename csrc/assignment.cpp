// assignment: a column for each row of a square matrix, each column once, of least total cost.
//
// Columns have prices, which only ever rise. So what a row found best, when it was last read as a whole, bounds from below all
// that it did not note then, and nearly all questions are answered by its short list. The method is a forward auction at
// falling eps (Bertsekas 1988), then the tight bids and the shortest augmenting paths of Jonker and Volgenant (1987). Only the
// paths decide what comes out, and they end whatever the prices; the auction makes them few and short, and is cut short itself
// where eps drowns in rounding.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "ops.h"

namespace odesolve {
namespace {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr int64_t LISTED = 128;  // columns that a row notes at most
constexpr int64_t MARKS = 48;    // groups whose least values are among them
// The first and the last eps in the unit of the problem, and the factors of eps from one auction to the next: after the first
// that ended, and before.
constexpr double FIRST = 0.25, LAST = 3e-4, FALL = 0.2, RISE = 25.0;
constexpr double NOTHING = 1e-12, PART = 2e-2;  // of the spread of a row: what is rounding, and the unit where lists are ties
constexpr int64_t PATIENCE = 12, LONGEST = 200;  // bids a row in one auction, and in all of them
constexpr int TURNS = 2;                         // that a row may lose its column again while bids settle

// The matrix, the prices, and what each row noted.
class Market {
  public:
    // The cheapest column of a row now, and a bound of all others: `next` is the second, -1 if it was not noted.
    struct Best {
        double least, second;
        int64_t column, next;
    };
    struct Noted {
        int64_t column;
        double cost;
    };

    Market(const double* cost, int64_t n)
        : n(n), price(n), cost_(cost), room_(std::min(n, LISTED)), value_(n), least_(LEAST), near_(n), lists_(n),
          noted_(n * room_) {
        std::copy(cost, cost + n, value_.begin());
        for (int64_t i = 1; i < n; ++i)
            for (int64_t j = 0; j < n; ++j) value_[j] = std::min(value_[j], this->cost(i, j));
        for (int64_t j = 0; j < n; ++j) price[j] = -value_[j];
    }

    const int64_t n;
    std::vector<double> price;

    double cost(int64_t i, int64_t j) const { return cost_[i * n + j]; }
    double value(int64_t j) const { return value_[j]; }        // of the row that was read last
    double rest(int64_t i) const { return lists_[i].rest; }    // no column that is not noted is or will be below
    const Noted* begin(int64_t i) const { return noted_.data() + i * room_; }
    const Noted* end(int64_t i) const { return begin(i) + lists_[i].length; }

    // Reads every row; how far apart values are: the least one and what is not noted, or where these tie a part of all.
    double unit() {
        double rests = 0.0, spreads = 0.0;
        for (int64_t i = 0; i < n; ++i) {
            read(i);
            const double least = listed(i).least;
            double spread = 0.0;
            for (const double x : value_) spread += x - least;
            rests += rest(i) - least;
            spreads += spread / double(n);
        }
        return (rests > NOTHING * spreads ? rests : PART * spreads) / double(n);
    }

    // All values of a row, and its list anew.
    void read(int64_t i) {
        loops<double>().reduced(value_.data(), least_.data(), cost_ + i * n, price.data(), n);
        double rest = INF;
        if (n > LISTED) {
            marks_ = least_;
            std::nth_element(marks_.begin(), marks_.begin() + MARKS - 1, marks_.end());
            rest = marks_[MARKS - 1];
        }
        int64_t length = collect(rest);
        if (length > room_) {
            const auto cheaper = [&](int64_t a, int64_t b) {
                return value_[a] < value_[b] || (value_[a] == value_[b] && a < b);
            };
            std::nth_element(near_.begin(), near_.begin() + room_, near_.begin() + length, cheaper);
            rest = value_[near_[room_]];
            length = room_;
        }
        Noted* list = noted_.data() + i * room_;
        for (int64_t k = 0; k < length; ++k) list[k] = {near_[k], cost(i, near_[k])};
        lists_[i] = {length, rest};
    }

    Best best(int64_t i) {
        Best best = listed(i);
        if (best.least > rest(i)) {
            read(i);
            best = listed(i);
        }
        if (best.second > rest(i)) {
            best.second = rest(i);
            best.next = -1;
        }
        return best;
    }

  private:
    struct List {
        int64_t length;
        double rest;
    };

    const double* cost_;
    const int64_t room_;
    std::vector<double> value_, least_, marks_;
    std::vector<int64_t> near_;
    std::vector<List> lists_;
    std::vector<Noted> noted_;

    // Puts the columns whose value is at most so much into near_.
    int64_t collect(double bound) {
        int64_t count = 0;
        for (int64_t group = 0; group < LEAST; ++group) {
            if (least_[group] > bound) continue;
            for (int64_t j = group; j < n; j += LEAST) {
                near_[count] = j;
                count += value_[j] <= bound;
            }
        }
        return count;
    }

    Best listed(int64_t i) const {
        Best best = {INF, INF, -1, -1};
        for (const Noted* noted = begin(i); noted < end(i); ++noted) {
            const double value = noted->cost + price[noted->column];
            if (value >= best.second) continue;
            if (value < best.least) {
                best = {value, best.least, noted->column, best.column};
            } else {
                best.second = value;
                best.next = noted->column;
            }
        }
        return best;
    }
};

// Which column each row has and which row each column, -1 for none.
struct Pairs {
    std::vector<int64_t> column, row;

    explicit Pairs(int64_t n) : column(n, -1), row(n, -1) {}

    // The row that had the column before.
    int64_t take(int64_t i, int64_t j) {
        const int64_t before = row[j];
        if (before >= 0) column[before] = -1;
        row[j] = i;
        column[i] = j;
        return before;
    }

    std::vector<int64_t> without(const std::vector<int64_t>& side) const {
        std::vector<int64_t> places;
        for (int64_t k = 0; k < int64_t(side.size()); ++k)
            if (side[k] < 0) places.push_back(k);
        return places;
    }
};

// Parts rows from columns that are not within eps of their best.
void release(Market& market, Pairs& pairs, double eps) {
    for (int64_t i = 0; i < market.n; ++i) {
        const int64_t j = pairs.column[i];
        if (j >= 0 && market.cost(i, j) + market.price[j] > market.best(i).least + eps) {
            pairs.row[j] = -1;
            pairs.column[i] = -1;
        }
    }
}

// At most so many bids; how many there were.
int64_t auction(Market& market, Pairs& pairs, double eps, int64_t most) {
    std::vector<int64_t> rows = pairs.without(pairs.column);
    int64_t bids = 0;
    for (; !rows.empty() && bids < most; ++bids) {
        const int64_t i = rows.back();
        rows.pop_back();
        const Market::Best best = market.best(i);
        market.price[best.column] += best.second - best.least + eps;
        const int64_t before = pairs.take(i, best.column);
        if (before >= 0) rows.push_back(before);
    }
    return bids;
}

void auctions(Market& market, Pairs& pairs) {
    const double unit = market.unit();
    if (market.n <= LISTED) return;  // lists hold whole rows: paths are as fast
    const int64_t most = PATIENCE * market.n;
    int64_t left = LONGEST * market.n;
    bool ended = false;
    for (double eps = FIRST * unit; eps > LAST * unit && left > 0; eps *= ended ? FALL : RISE) {
        release(market, pairs, eps);
        const int64_t bids = auction(market, pairs, eps, most);
        ended = ended || bids < most;
        left -= bids;
    }
}

// Bids without eps, not against ties: every pair that they leave is tight, as paths need it.
void settle(Market& market, Pairs& pairs) {
    std::vector<int64_t> rows = pairs.without(pairs.column);
    std::vector<char> turns(market.n);
    for (size_t k = 0; k < rows.size(); ++k) {
        const Market::Best best = market.best(rows[k]);
        const bool tied = best.second <= best.least;
        const bool taken = pairs.row[best.column] >= 0;
        const int64_t j = tied && taken && best.next >= 0 ? best.next : best.column;
        if (tied && pairs.row[j] >= 0) continue;
        if (!tied && best.second < INF) market.price[j] += best.second - best.least;
        const int64_t before = pairs.take(rows[k], j);
        if (before >= 0 && turns[before]++ < TURNS) rows.push_back(before);
    }
}

// Shortest augmenting paths by Dijkstra's algorithm. Ways go through the lists; a row is read as a whole only when no shorter
// way is left than one through what it did not note.
class Paths {
  public:
    Paths(Market& market, Pairs& pairs) : market_(market), pairs_(pairs), ways_(market.n), base_(market.n) {}

    // Gives a row a column.
    void augment(int64_t start) {
        start_ = start;
        heap_.clear();
        length_ = INF;
        free_ = pairs_.without(pairs_.row);
        std::vector<int64_t> done;
        open(start, 0.0);
        while (!heap_.empty() && heap_.front().length < length_) {
            const Entry entry = pop();
            const int64_t j = entry.column;
            if (j < 0) {
                open_whole(-1 - j);
            } else if (!ways_[j].done && entry.length <= ways_[j].length) {
                ways_[j].done = true;
                done.push_back(j);
                const int64_t i = pairs_.row[j];
                open(i, entry.length - (market_.cost(i, j) + market_.price[j]));
            }
        }
        for (const int64_t j : done) market_.price[j] += std::max(0.0, length_ - ways_[j].length);
        turn();
    }

  private:
    struct Entry {
        double length;
        int64_t column;  // or -1 - row, for a row to be read
        bool operator>(const Entry& other) const {
            return length > other.length || (length == other.length && column > other.column);
        }
    };
    // The shortest way known to a column, in the search that began at a row.
    struct Way {
        double length = INF;
        int64_t from = -1, start = -1;
        bool done = false;
    };

    Market& market_;
    Pairs& pairs_;
    std::vector<Way> ways_;
    std::vector<double> base_;  // length of the way to a row, less the value of the column that it has
    std::vector<Entry> heap_;
    std::vector<int64_t> free_;
    double length_ = INF;  // of the shortest way to a free column
    int64_t start_ = -1, end_ = -1;

    void push(double length, int64_t column) {
        if (!(length < length_)) return;
        heap_.push_back({length, column});
        std::push_heap(heap_.begin(), heap_.end(), std::greater<Entry>());
    }

    Entry pop() {
        std::pop_heap(heap_.begin(), heap_.end(), std::greater<Entry>());
        const Entry entry = heap_.back();
        heap_.pop_back();
        return entry;
    }

    void reach(int64_t j, int64_t from, double length) {
        Way& way = ways_[j];
        if (!(length < length_) || (way.start == start_ && (way.done || way.length <= length))) return;
        way = {length, from, start_, false};
        if (pairs_.row[j] >= 0) return push(length, j);
        length_ = length;
        end_ = j;
    }

    void open(int64_t i, double base) {
        base_[i] = base;
        for (const Market::Noted* noted = market_.begin(i); noted < market_.end(i); ++noted)
            reach(noted->column, i, base + (noted->cost + market_.price[noted->column]));
        push(base + market_.rest(i), -1 - i);
    }

    void open_whole(int64_t i) {
        market_.read(i);
        for (const int64_t j : free_) reach(j, i, base_[i] + market_.value(j));  // first: there are fewer ways to push then
        for (int64_t j = 0; j < market_.n; ++j)
            if (base_[i] + market_.value(j) < length_) reach(j, i, base_[i] + market_.value(j));
    }

    // Every row of the way takes the column that the way goes on to.
    void turn() {
        for (int64_t j = end_, i = -1; i != start_;) {
            i = ways_[j].from;
            const int64_t before = pairs_.column[i];
            pairs_.row[j] = i;
            pairs_.column[i] = j;
            j = before;
        }
    }
};

std::vector<int64_t> assigned(const double* cost, int64_t n) {
    Market market(cost, n);
    Pairs pairs(n);
    auctions(market, pairs);
    release(market, pairs, 0.0);
    settle(market, pairs);
    Paths paths(market, pairs);
    for (const int64_t i : pairs.without(pairs.column)) paths.augment(i);
    return pairs.column;
}

// Whether no sum of prices can overflow.
bool moderate(const double* cost, int64_t count) {
    constexpr double most = 1e250;
    bool all = true;
    for (int64_t k = 0; k < count; ++k) all = all && std::abs(cost[k]) <= most;
    return all;
}

}  // namespace

void assignment(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count == 2);
    const Tensor order = arguments.write(args[0], true), cost = arguments.read(args[1]);
    require(cost.type == F64 && cost.dims == 2 && cost.shape[0] == cost.shape[1] && cost.shape[0] > 0);
    const int64_t n = cost.shape[0];
    require(cost.stride[1] == 1 && cost.stride[0] == n && order.dims == 1 && order.shape[0] == n);
    require(!overlap(order, cost));
    const auto* costs = reinterpret_cast<const double*>(cost.data);
    require(moderate(costs, n * n));
    Unlocked unlocked(n * n);
    const std::vector<int64_t> columns = assigned(costs, n);
    for (int64_t i = 0; i < n; ++i) reinterpret_cast<int64_t*>(order.data)[i * order.stride[0]] = columns[i];
}

}  // namespace odesolve
