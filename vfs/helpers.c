// SPDX-License-Identifier: GPL-2.0
/*
 * C helpers of vfs/: see helpers.h.  No policy lives here; what a function
 * needs of its caller stands at the SAFETY comment of its Rust caller.
 */

#include <linux/cdev.h>
#include <linux/cpu.h>
#include <linux/cred.h>
#include <linux/dax.h>
#include <linux/dcache.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/file.h>
#include <linux/folio_batch.h>
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/pid_namespace.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>
#include <linux/version.h>
#include <linux/workqueue.h>

#include "helpers.h"

/* the module! macro has no field for it */
MODULE_VERSION(VFS_MODULE_VERSION);

/*
 * There are no extended attributes, so a mode without set-id bits is all that it
 * takes for a write to need no look at them.  SB_NOSEC says that for others, but
 * with it the core sets the flag for a mode that it has seen, without a lock, and
 * modes change here while files are written to.
 */
static void set_mode(struct inode *inode, umode_t mode)
{
	spin_lock(&inode->i_lock);
	WRITE_ONCE(inode->i_mode, mode);
	inode_set_flags(inode, mode & (S_ISUID | S_ISGID) ? 0 : S_NOSEC, S_NOSEC);
	spin_unlock(&inode->i_lock);
}

void vfsh_inode_set_attr(struct inode *inode, const struct vfs_attr *attr)
{
	if (attr->valid & VFS_ATTR_MODE)
		set_mode(inode, attr->mode);
	if (attr->valid & VFS_ATTR_UID)
		inode->i_uid = make_kuid(&init_user_ns, attr->uid);
	if (attr->valid & VFS_ATTR_GID)
		inode->i_gid = make_kgid(&init_user_ns, attr->gid);
	if (attr->valid & VFS_ATTR_NLINK) {
		spin_lock(&inode->i_lock);
		set_nlink(inode, attr->nlink);
		spin_unlock(&inode->i_lock);
	}
	if (attr->valid & VFS_ATTR_SIZE)
		vfsh_inode_set_size(inode, attr->size);
	if (attr->valid & VFS_ATTR_ATIME)
		inode_set_atime(inode, attr->atime_sec, attr->atime_nsec);
	if (attr->valid & VFS_ATTR_MTIME)
		inode_set_mtime(inode, attr->mtime_sec, attr->mtime_nsec);
	if (attr->valid & VFS_ATTR_CTIME)
		inode_set_ctime(inode, attr->ctime_sec, attr->ctime_nsec);
}

/* i_lock, held here, orders the writers of i_size_seqcount on 32 bit */
static void set_size_locked(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
	inode->i_blocks = ((u64)size + 511) >> 9;
}

void vfsh_inode_set_size(struct inode *inode, loff_t size)
{
	spin_lock(&inode->i_lock);
	set_size_locked(inode, size);
	spin_unlock(&inode->i_lock);
}

void vfsh_inode_copy_size(struct inode *inode, const struct inode *from)
{
	/* read inside: of two that copy, the later one has the later size */
	spin_lock(&inode->i_lock);
	set_size_locked(inode, i_size_read(from));
	spin_unlock(&inode->i_lock);
}

loff_t vfsh_inode_size(const struct inode *inode)
{
	return i_size_read(inode);
}

/*
 * Pages that are new to the page cache are referenced by the CPU that put them
 * there, until it has a handful for the LRU lists.  The release of a batch, even
 * of none, is what an exported function puts an end to that with.
 */
static long drain_this_cpu(void *unused)
{
	struct folio_batch none;

	folio_batch_init(&none);
	__folio_batch_release(&none);
	return 0;
}

static void drain_all_cpus(void)
{
	unsigned int cpu;

	cpus_read_lock();
	for_each_online_cpu(cpu)
		work_on_cpu(cpu, drain_this_cpu, NULL);
	cpus_read_unlock();
}

/*
 * Some references are gone in a moment: those of a CPU's batches, of a read or of
 * reclaim on its way, of a transfer that is about to end.  As
 * memfd_wait_for_pins(), which waits for as long: 150 ms, and for the CPUs.
 */
static bool wait_for_references(unsigned int try)
{
	switch (try) {
	case 0:
		drain_this_cpu(NULL);
		return true;
	case 1:
		drain_all_cpus();
		return true;
	case 2 ... 5:
		msleep(10 << (try - 2));
		return true;
	default:
		return false;
	}
}

/*
 * Whether somebody has a reference to a folio of @mapping that is neither the
 * caller's one, nor the page cache's, nor that of an area.  Most who write to user
 * memory behind its owner's back pin it, which is a reference and more; but not
 * all do: an asynchronous direct read of NFS does not (iov_iter_get_pages_alloc2()).
 */
static bool folio_is_held(struct address_space *mapping, struct folio *folio)
{
	bool held = false;
	int references;

	if (!folio_trylock(folio))
		return true;
	/* Truncated, or moved: nobody else had a reference then, or it is of no use. */
	if (folio->mapping == mapping) {
		/*
		 * With areas that come and go, the two numbers would be of two moments.
		 * Without any, and with the folio locked, there is no way to get one but
		 * from the page cache.
		 */
		if (folio_mapped(folio)) {
			migrate_disable();
			unmap_mapping_pages(mapping, folio->index,
					    folio_nr_pages(folio), false);
			/* A locked area leaves it to this CPU to unlock the page. */
			drain_this_cpu(NULL);
			migrate_enable();
		}
		references = folio_ref_count(folio);
		/* Some hosts take away the private data, and then the reference for it. */
		smp_rmb();
		held = folio_mapped(folio) ||
		       references > folio_expected_ref_count(folio) + 1;
	}
	folio_unlock(folio);
	return held;
}

/* DAX counts no pins apart: its pages have references of areas and of who pins them. */
static bool dax_is_busy(struct address_space *mapping)
{
	bool busy;

	/* As hosts do before they free blocks: no fault makes another area of it. */
	filemap_invalidate_lock(mapping);
	busy = dax_layout_busy_page(mapping);
	filemap_invalidate_unlock(mapping);
	return busy;
}

/*
 * A walk over the folios of a file.  Each has to be found free once: who has a
 * reference may drop it, but there is nobody left to take a new one.
 */
struct held_walk {
	pgoff_t held[64];	/* those that were not free when they were looked at */
	unsigned int count;
	pgoff_t next;		/* where those begin that were not looked at */
	bool over;		/* there are none of these */
};

static void look_again(struct address_space *mapping, struct held_walk *walk)
{
	unsigned int i, left = 0;

	for (i = 0; i < walk->count; i++) {
		struct folio *folio = filemap_get_folio(mapping, walk->held[i]);

		if (IS_ERR(folio))
			continue;
		if (folio_is_held(mapping, folio))
			walk->held[left++] = walk->held[i];
		folio_put(folio);
	}
	walk->count = left;
}

static void look_on(struct address_space *mapping, struct held_walk *walk)
{
	struct folio_batch batch;
	unsigned int i;

	folio_batch_init(&batch);
	while (!walk->over && walk->count + FOLIO_BATCH_SIZE <= ARRAY_SIZE(walk->held)) {
		if (!filemap_get_folios(mapping, &walk->next, ULONG_MAX, &batch)) {
			walk->over = true;
			break;
		}
		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			if (folio_is_held(mapping, folio))
				walk->held[walk->count++] = folio->index;
		}
		folio_batch_release(&batch);
		cond_resched();
	}
}

bool vfsh_mapping_may_be_pinned(struct address_space *mapping)
{
	struct held_walk walk = {};
	unsigned int try = 0;
	bool held;

	if (dax_mapping(mapping)) {
		while (dax_is_busy(mapping))
			if (!wait_for_references(try++))
				return true;
		return false;
	}
	if (mapping_empty(mapping))
		return false;
	/* All at once is cheaper; those who have an area see minor faults. */
	if (mapping_mapped(mapping))
		unmap_mapping_pages(mapping, 0, 0, false);
	do {
		look_again(mapping, &walk);
		look_on(mapping, &walk);
		held = walk.count || !walk.over;
	} while (held && wait_for_references(try++));
	return held;
}

void vfsh_inode_touch(struct inode *inode)
{
	struct timespec64 now = current_time(inode);
	struct timespec64 ctime = inode_get_ctime(inode);
	struct timespec64 mtime = inode_get_mtime(inode);

	/* the clock is a coarse one: most writes come within a tick of another */
	if (timespec64_equal(&now, &ctime) && timespec64_equal(&now, &mtime))
		return;
	inode_set_mtime_to_ts(inode, inode_set_ctime_current(inode));
}

/*
 * The link count is set by attributes as well, without i_rwsem: look at it and
 * change it in one step.
 */
void vfsh_inode_inc_nlink(struct inode *inode)
{
	spin_lock(&inode->i_lock);
	if (inode->i_nlink && inode->i_nlink != UINT_MAX)
		inc_nlink(inode);
	spin_unlock(&inode->i_lock);
}

void vfsh_inode_drop_nlink(struct inode *inode)
{
	spin_lock(&inode->i_lock);
	if (inode->i_nlink)
		drop_nlink(inode);
	spin_unlock(&inode->i_lock);
}

void vfsh_inode_clear_nlink(struct inode *inode)
{
	spin_lock(&inode->i_lock);
	clear_nlink(inode);
	spin_unlock(&inode->i_lock);
}

/*
 * Taking an inode out of the hash and putting it in again are two steps, each
 * with the hash's own lock; two at a time would put it in twice.
 */
static DEFINE_SPINLOCK(vfsh_rehash_lock);

void vfsh_inode_rehash(struct inode *inode, u64 hash)
{
	spin_lock(&vfsh_rehash_lock);
	remove_inode_hash(inode);
	inode->i_ino = hash;
	__insert_inode_hash(inode, hash);
	spin_unlock(&vfsh_rehash_lock);
}

void vfsh_inode_unhash(struct inode *inode)
{
	spin_lock(&vfsh_rehash_lock);
	remove_inode_hash(inode);
	spin_unlock(&vfsh_rehash_lock);
}

bool vfsh_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

bool vfsh_inode_is_sync(struct inode *inode)
{
	return IS_SYNC(inode);
}

bool vfsh_inode_is_dax(const struct inode *inode)
{
	return IS_DAX(inode);
}

void vfsh_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

bool vfsh_inode_trylock(struct inode *inode)
{
	return inode_trylock(inode);
}

void vfsh_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

void vfsh_inode_special(struct inode *inode, u64 rdev)
{
	init_special_inode(inode, inode->i_mode, huge_decode_dev(rdev));
}

void vfsh_inode_make_symlink(struct inode *inode,
			    const struct address_space_operations *aops)
{
	/* page_get_link() hands out folio_address() of the cached page */
	inode_nohighmem(inode);
	inode->i_data.a_ops = aops;
}

void *vfsh_alloc_inode(struct super_block *sb, struct kmem_cache *cache)
{
	return alloc_inode_sb(sb, cache, GFP_KERNEL);
}

struct kmem_cache *vfsh_inode_cache_create(const char *name, unsigned int size,
					  unsigned int align,
					  void (*ctor)(void *obj))
{
	return kmem_cache_create(name, size, align,
				 SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, ctor);
}

void *vfsh_folio_address(struct folio *folio)
{
	return folio_address(folio);
}

struct inode *vfsh_folio_host(struct folio *folio)
{
	return folio->mapping->host;
}

void vfsh_iattr_to_attr(const struct iattr *iattr, struct vfs_attr *attr)
{
	memset(attr, 0, sizeof(*attr));
	if (iattr->ia_valid & ATTR_MODE) {
		attr->valid |= VFS_ATTR_MODE;
		attr->mode = iattr->ia_mode;
	}
	if (iattr->ia_valid & ATTR_UID) {
		attr->valid |= VFS_ATTR_UID;
		attr->uid = from_kuid(&init_user_ns, iattr->ia_uid);
	}
	if (iattr->ia_valid & ATTR_GID) {
		attr->valid |= VFS_ATTR_GID;
		attr->gid = from_kgid(&init_user_ns, iattr->ia_gid);
	}
	if (iattr->ia_valid & ATTR_SIZE) {
		attr->valid |= VFS_ATTR_SIZE;
		attr->size = iattr->ia_size;
	}
	if (iattr->ia_valid & ATTR_ATIME) {
		attr->valid |= VFS_ATTR_ATIME;
		attr->atime_sec = iattr->ia_atime.tv_sec;
		attr->atime_nsec = iattr->ia_atime.tv_nsec;
	}
	if (iattr->ia_valid & ATTR_MTIME) {
		attr->valid |= VFS_ATTR_MTIME;
		attr->mtime_sec = iattr->ia_mtime.tv_sec;
		attr->mtime_nsec = iattr->ia_mtime.tv_nsec;
	}
	if (iattr->ia_valid & ATTR_CTIME) {
		attr->valid |= VFS_ATTR_CTIME;
		attr->ctime_sec = iattr->ia_ctime.tv_sec;
		attr->ctime_nsec = iattr->ia_ctime.tv_nsec;
	}
}

void vfsh_fillattr(u32 request_mask, struct inode *inode, struct kstat *stat)
{
	generic_fillattr(&nop_mnt_idmap, request_mask, inode, stat);
}

void vfsh_dentry_visit_children(struct dentry *parent,
				void (*visit)(struct inode *inode, void *arg),
				void *arg)
{
	struct dentry *child;

	spin_lock(&parent->d_lock);
	rcu_read_lock();
	hlist_for_each_entry(child, &parent->d_children, d_sib) {
		struct inode *inode = d_inode_rcu(child);

		if (inode)
			visit(inode, arg);
	}
	rcu_read_unlock();
	spin_unlock(&parent->d_lock);
}

unsigned int vfsh_dentry_count(const struct dentry *dentry)
{
	return d_count(dentry);
}

struct inode *vfsh_dentry_inode(const struct dentry *dentry)
{
	return d_inode(dentry);
}

int vfsh_user_path(const char __user *name, bool follow, struct path *path)
{
	return user_path_at(AT_FDCWD, name, follow ? LOOKUP_FOLLOW : 0, path);
}

void vfsh_sb_init(struct super_block *sb, unsigned long magic,
		 const struct super_operations *s_op,
		 const struct dentry_operations *d_op)
{
	sb->s_flags |= SB_NOATIME;
	/* files are served from those of another file system */
	sb->s_stack_depth = 1;
	sb->s_blocksize = 4096;
	sb->s_blocksize_bits = 12;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_magic = magic;
	sb->s_op = s_op;
	sb->s_time_gran = 1;
	sb->s_time_min = S64_MIN;
	sb->s_time_max = S64_MAX;
	set_default_d_op(sb, d_op);
}

bool vfsh_sb_has_inodes(struct super_block *sb)
{
	bool has;

	spin_lock(&sb->s_inode_list_lock);
	has = !list_empty(&sb->s_inodes);
	spin_unlock(&sb->s_inode_list_lock);
	return has;
}

int vfsh_fc_fd_param(struct fs_context *fc,
		    const struct fs_parameter_spec *specs,
		    struct fs_parameter *param, struct file **file)
{
	struct fs_parse_result result;
	int opt;

	opt = fs_parse(fc, specs, param, &result);
	if (opt < 0)
		return opt;

	if (param->type == fs_value_is_file) {
		*file = param->file;
		param->file = NULL;
	} else {
		*file = fget(result.uint_32);
	}
	return *file ? 0 : -EBADF;
}

void vfsh_fc_error(struct fs_context *fc, const char *name, const char *message)
{
	errorf(fc, "%s: %s", name, message);
}

void vfsh_fd_spec(struct fs_parameter_spec *spec, const char *name)
{
	*spec = (struct fs_parameter_spec)fsparam_fd(name, 0);
}

struct file *vfsh_backing_file_open(struct file *user, int flags,
				   const struct path *path,
				   const struct cred *cred)
{
	return backing_file_open(user, flags, path, cred);
}

bool vfsh_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino,
		  unsigned int type)
{
	return dir_emit(ctx, name, len, ino, type);
}

bool vfsh_dir_emit_dots(struct file *file, struct dir_context *ctx)
{
	return dir_emit_dots(file, ctx);
}

void vfsh_get_file(struct file *file)
{
	get_file(file);
}

u32 vfsh_file_fsuid(const struct file *file)
{
	/* what from_kuid() makes of it in the initial user namespace */
	return __kuid_val(file->f_cred->fsuid);
}

void vfsh_file_set_direct(struct file *file, bool direct)
{
	spin_lock(&file->f_lock);
	if (direct)
		file->f_flags |= O_DIRECT;
	else
		file->f_flags &= ~O_DIRECT;
	WRITE_ONCE(file->f_iocb_flags, iocb_flags(file));
	spin_unlock(&file->f_lock);
}

void vfsh_init_sync_kiocb(struct kiocb *kiocb, struct file *file)
{
	init_sync_kiocb(kiocb, file);
}

int vfsh_backing_fallocate(struct file *user, struct file *file, int mode,
			   loff_t offset, loff_t len)
{
	const struct cred *caller;
	int ret;

	ret = file_remove_privs(user);
	if (ret)
		return ret;
	caller = override_creds(file->f_cred);
	ret = vfs_fallocate(file, mode, offset, len);
	revert_creds(caller);
	return ret;
}

long vfsh_file_fallocate_as_opener(struct file *file,
				   const struct file_operations *fops,
				   int mode, loff_t offset, loff_t len)
{
	const struct cred *caller = override_creds(file->f_cred);
	long ret = fops->fallocate(file, mode, offset, len);

	revert_creds(caller);
	return ret;
}

/*
 * The lock is that of fdget_pos(), which is what makes a system call the only one
 * that lists a file's directory: hosts keep a cursor with the file.  The reader
 * holds the lock of the file that this one stands for.
 */
int vfsh_iterate_dir_at(struct file *file, struct dir_context *ctx)
{
	loff_t at = 0;
	int ret;

	mutex_lock_nested(&file->f_pos_lock, SINGLE_DEPTH_NESTING);
	if (file->f_pos != ctx->pos)
		at = vfs_llseek(file, ctx->pos, SEEK_SET);
	ret = at < 0 ? at : iterate_dir(file, ctx);
	mutex_unlock(&file->f_pos_lock);
	return ret;
}

bool vfsh_module_is_live(const struct module *mod)
{
	return mod->state == MODULE_STATE_LIVE;
}

/*
 * A module that is being loaded has a reference of the loader's.  One that goes
 * has none, unless it is forced to.
 */
bool vfsh_module_in_use(struct module *mod)
{
	int loader = mod->state == MODULE_STATE_COMING;
	bool in_use;

	/*
	 * Pairs with cdev_get(): who has a reference to what was just unregistered had
	 * one to the module before.
	 */
	smp_mb();
	in_use = module_refcount(mod) > loader;
	/* pairs with module_put(): what users did comes before what is done next */
	smp_mb();
	return in_use;
}

/*
 * Whoever gave back the module's last reference from within its text may be there
 * still for the few instructions until it returns.  It does not sleep there, be it
 * in our own code or in a handler that we have called: those of the hosts' that let
 * a file go have nothing more to do.  (Ceph's has, when a fault is to be retried.)
 */
void vfsh_module_wait_for_text(void)
{
	synchronize_rcu_tasks();
}

bool vfsh_iov_iter_is_readable(const struct iov_iter *iter)
{
	return !fault_in_iov_iter_readable(iter, 1);
}

size_t vfsh_iov_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

bool vfsh_vma_shared_maywrite(const struct vm_area_struct *vma)
{
	return (vma->vm_flags & (VM_SHARED | VM_MAYWRITE)) ==
	       (VM_SHARED | VM_MAYWRITE);
}

bool vfsh_vma_desc_shared_maywrite(const struct vm_area_desc *desc)
{
	return vma_flags_test(&desc->vma_flags, VMA_SHARED_BIT) &&
	       vma_flags_test(&desc->vma_flags, VMA_MAYWRITE_BIT);
}

/* Areas that are mapped at once, or not through vm_ops at all. */
#define VFS_SPECIAL_VM (VM_PFNMAP | VM_MIXEDMAP | VM_IO | VM_HUGETLB)

bool vfsh_vma_is_special(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VFS_SPECIAL_VM;
}

bool vfsh_vma_desc_is_special(const struct vm_area_desc *desc)
{
	return vma_flags_to_legacy(desc->vma_flags) & VFS_SPECIAL_VM;
}

/* Whether the host's handlers may map a page themselves. */
bool vfsh_vma_maps_itself(const struct vm_area_struct *vma)
{
	return vma_is_dax(vma) || (vma->vm_flags & (VM_PFNMAP | VM_MIXEDMAP));
}

bool vfsh_file_is_hugetlb(const struct file *file)
{
	return file->f_op->fop_flags & FOP_HUGE_PAGES;
}

/* A file of debugfs, functionfs and the like. */
bool vfsh_file_has_no_pages(const struct file *file)
{
	return file->f_mapping->a_ops == &empty_aops;
}

void vfsh_module_hold(void)
{
	__module_get(THIS_MODULE);
}

/*
 * The operations of a file that was released have an owner and nothing else:
 * fops_put() gives back what vfsh_module_hold() took when this module is done
 * with the file.
 */
void vfsh_file_released(struct file *file, const struct file_operations *host)
{
	static const struct file_operations released = {
		.owner = THIS_MODULE,
	};

	fops_put(host);
	file->f_op = &released;
}

/*
 * What the core asks of the file that it is told to map, see do_mmap() and
 * memfd_check_seals_mmap().
 */
int vfsh_vma_ask_file(struct vm_area_struct *vma, const struct file *file)
{
	struct inode *inode = file->f_mapping->host;

	if (!(vma->vm_flags & VM_SHARED))
		return 0;
	if ((vma->vm_flags & VM_WRITE) && IS_SWAPFILE(inode))
		return -ETXTBSY;
	if (shmem_mapping(file->f_mapping) &&
	    (READ_ONCE(SHMEM_I(inode)->seals) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))) {
		if (vma->vm_flags & VM_WRITE)
			return -EPERM;
		vm_flags_clear(vma, VM_MAYWRITE);
	}
	return 0;
}

int vfsh_file_map_writable(struct file *file)
{
	return mapping_map_writable(file->f_mapping);
}

void vfsh_file_unmap_writable(struct file *file)
{
	mapping_unmap_writable(file->f_mapping);
}

int vfsh_chrdev_reserve(unsigned int major, unsigned int minors,
			const char *name)
{
	return register_chrdev_region(MKDEV(major, 0), minors, name);
}

void vfsh_chrdev_unreserve(unsigned int major, unsigned int minors)
{
	unregister_chrdev_region(MKDEV(major, 0), minors);
}

/* Half of __register_chrdev(); the other one is vfsh_chrdev_reserve(). */
struct cdev *vfsh_chrdev_add(unsigned int major, unsigned int minors,
			     const struct file_operations *fops)
{
	struct cdev *cdev = cdev_alloc();
	int ret;

	if (!cdev)
		return ERR_PTR(-ENOMEM);
	cdev->owner = fops->owner;
	cdev->ops = fops;
	ret = cdev_add(cdev, MKDEV(major, 0), minors);
	if (ret) {
		kobject_put(&cdev->kobj);
		return ERR_PTR(ret);
	}
	return cdev;
}

struct class *vfsh_class_create(const char *name)
{
	return class_create(name);
}

int vfsh_device_create(struct class *cls, unsigned int major,
		      unsigned int minor, const char *prefix)
{
	return PTR_ERR_OR_ZERO(device_create(cls, NULL, MKDEV(major, minor),
					     NULL, "%s%u", prefix, minor));
}

void vfsh_device_destroy(struct class *cls, unsigned int major,
			unsigned int minor)
{
	device_destroy(cls, MKDEV(major, minor));
}

unsigned int vfsh_inode_minor(const struct inode *inode)
{
	return iminor(inode);
}

u32 vfsh_current_fsuid(void)
{
	return __kuid_val(current_fsuid());
}

bool vfsh_current_in_init_pid_ns(void)
{
	return task_active_pid_ns(current) == &init_pid_ns;
}

bool vfsh_current_in_init_namespaces(void)
{
	return vfsh_current_in_init_pid_ns() &&
	       current_user_ns() == &init_user_ns;
}

bool vfsh_current_cannot_be_signalled(void)
{
	return current->flags & (PF_EXITING | PF_KTHREAD);
}

bool vfsh_current_is_killed(void)
{
	return fatal_signal_pending(current);
}

bool vfsh_current_has_signal(void)
{
	return task_sigpending(current);
}

void vfsh_block_signals(sigset_t *saved)
{
	sigset_t blocked;

	sigfillset(&blocked);
	sigdelset(&blocked, SIGKILL);
	sigdelset(&blocked, SIGSTOP);
	/* what the task itself blocks stays blocked */
	if (!sigismember(&current->blocked, SIGINT))
		sigdelset(&blocked, SIGINT);
	sigprocmask(SIG_SETMASK, &blocked, saved);
}

void vfsh_unblock_signals(const sigset_t *saved)
{
	sigset_t set = *saved;

	sigprocmask(SIG_SETMASK, &set, NULL);
}

int vfsh_current_pid(void)
{
	return task_pid_nr_ns(current, &init_pid_ns);
}

int vfsh_current_pgid(void)
{
	return task_pgrp_nr_ns(current, &init_pid_ns);
}

bool vfsh_may_warn(void)
{
	static DEFINE_RATELIMIT_STATE(limit, DEFAULT_RATELIMIT_INTERVAL,
				      DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&limit);
}

static int shown_show(struct seq_file *to, void *unused)
{
	const struct vfs_shown *shown = to->private;

	return shown->show(to, shown->data, shown->how);
}

/* DEFINE_SHOW_ATTRIBUTE(): who has it open holds the module */
DEFINE_SHOW_ATTRIBUTE(shown);

struct dentry *vfsh_debugfs_dir(const char *name)
{
	return debugfs_create_dir(name, NULL);
}

void vfsh_debugfs_file(struct dentry *dir, const char *name,
		       const struct vfs_shown *shown)
{
	debugfs_create_file(name, 0400, dir, (void *)shown, &shown_fops);
}

void vfsh_debugfs_remove(struct dentry *dir)
{
	debugfs_remove(dir);
}
